"""Sets of synthetic captures: many people in a folder, written by several processes, on all GPUs that are there."""

import functools
import json
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from core.utils.processes import end_with_parent
from scripts.synthetic.capture import fits_beside, is_current, write_capture
from scripts.synthetic.layout import STAMP
from scripts.synthetic.options import CaptureOptions
from scripts.synthetic.rigs import make_rig
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)


GPU_BYTES = 3 << 30
"""Memory that a process needs on a GPU, at most, for pictures of the benchmark's size; most of it is PyTorch's."""


@dataclass(frozen=True)
class CaptureSet:
    """People of one folder."""

    root: Path
    subjects: dict[str, int]
    """Subject id -> index of the person that it shows."""
    options: CaptureOptions


def shard(subjects: dict[str, int], part: str) -> dict[str, int]:
    """Every n-th person from the i-th on, for a part `i/n` (as 0/2 and 1/2): a share of the work for each machine."""
    try:
        first, count = (int(x) for x in part.split("/"))
    except ValueError:
        first, count = 0, 0
    if not 0 <= first < count:
        raise InputError(f"--part {part}: must be i/n with i from 0 to n - 1, as in 0/2 and 1/2")
    return dict(list(subjects.items())[first::count])


def default_workers(people: int, device: str) -> int:
    """As many processes as there are processors, unless there are fewer people or too little memory on the GPUs."""
    workers = min(os.cpu_count() or 1, people)
    if device == "cuda":
        memory = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        workers = min(workers, sum(memory) // GPU_BYTES)
    return max(workers, 1)


def write_dataset(
    root: Path, subjects: dict[str, int], options: CaptureOptions, *, spelling: str = "list", **how
) -> None:
    """Write captures of several people and `human.json`; captures that are there already stay.

    Args:
        root: Folder of the set.
        subjects: Subject id -> index of the person that it shows.
        options: How they are made.
        spelling: Keys of `human.json`: `list` (`view_id_list`, `pose_id_list`) or `short` (`view_id`, `pose_id`).
        how: As in `write_datasets`.
    """
    write_datasets([CaptureSet(root, subjects, options)], spelling=spelling, **how)


def write_datasets(
    sets: list[CaptureSet],
    *,
    device: str = "cpu",
    workers: int = 0,
    body_file: Path = STANDIN_BODY,
    spelling: str = "list",
) -> None:
    """Write several sets, one after the other.

    Args:
        sets: As in `write_dataset`.
        device: Where pictures are drawn: `cpu`; `cuda`, with several workers on all GPUs that are there.
        workers: Processes that each write whole captures; 0 uses this one.
        body_file: The body model; the stand-in by default.
        spelling: As in `write_dataset`.
    """
    body = load_body(body_file)
    todo = []
    for chosen in sets:
        chosen.root.mkdir(parents=True, exist_ok=True)
        missing = [
            (chosen.root / name, index, chosen.options)
            for name, index in chosen.subjects.items()
            if not is_current(chosen.root / name, index, chosen.options, body)
        ]
        if len(missing) < len(chosen.subjects):
            there = len(chosen.subjects) - len(missing)
            logger.info("%s: %d of %d captures are there already", chosen.root, there, len(chosen.subjects))
        todo += missing
    with tqdm(total=len(todo), desc="synthetic captures", unit="person", disable=not todo) as bar:
        if workers == 0:
            for folder, index, options in todo:
                write_capture(folder, index, options, body=body, device=device)
                bar.update()
        elif todo:
            _write_in_processes([(*job, body_file, device) for job in todo], min(workers, len(todo)), device, bar)
    for chosen in sets:
        _write_human_list(chosen.root, _subjects_of(chosen, body), chosen.options, spelling)


def _write_in_processes(jobs: list[tuple], workers: int, device: str, bar: tqdm) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Value("i", 0)
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(device, started)) as pool:
        try:
            for job in as_completed([pool.submit(_write_one, *arguments) for arguments in jobs]):
                job.result()
                bar.update()
        except BrokenProcessPool as error:
            raise InputError(
                "a process that wrote captures was stopped, most likely for want of memory; take fewer --workers "
                "(captures that are whole stay)"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else all others would be written first
            raise


def _start_worker(device: str, started) -> None:
    """Workers take turns with the GPUs that are there, and end with this process."""
    end_with_parent()
    torch.set_num_threads(1)
    with started.get_lock():
        number = started.value
        started.value += 1
    if device == "cuda":
        torch.cuda.set_device(number % torch.cuda.device_count())


def _write_one(folder: Path, index: int, options: CaptureOptions, body_file: Path, device: str) -> None:
    """What a worker process does: one capture."""
    write_capture(folder, index, options, body=_worker_body(body_file), device=device)


@functools.cache
def _worker_body(body_file: Path) -> BodyModel:
    return load_body(body_file)


def _subjects_of(chosen: CaptureSet, body: BodyModel) -> list[str]:
    """All subjects that are there, for a set may be made in parts; not what other options or versions left there."""
    there = sorted(stamp.parent for stamp in chosen.root.glob(f"[!.]*/{STAMP}"))
    subjects = [folder.name for folder in there if fits_beside(folder, chosen.options, body)]
    if len(subjects) < len(there):
        logger.warning(
            "%s: %d captures have other cameras, frames, another body or are of another version of this program; they "
            "are not in human.json: remove them, make them again, or choose another folder",
            *(chosen.root, len(there) - len(subjects)),
        )
    return subjects


def _write_human_list(root: Path, subjects: list[str], options: CaptureOptions, spelling: str) -> None:
    suffix = {"list": "_list", "short": ""}[spelling]
    rig = make_rig(options.rig, options.width, options.height, np.random.default_rng(0), options.cameras)
    content = {
        "human_id": subjects,
        f"view_id{suffix}": list(rig.names),
        f"pose_id{suffix}": [f"{frame:04d}" for frame in options.frames],
    }
    with atomic_path(root / "human.json") as path:
        path.write_text(json.dumps(content, indent=1))
