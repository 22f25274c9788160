"""Sets of synthetic captures: many people in a folder, written by several processes on all GPUs."""

import functools
import json
import logging
import multiprocessing
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from core.utils.processes import in_processes
from scripts.synthetic.capture import write_capture
from scripts.synthetic.options import CaptureOptions
from scripts.synthetic.rigs import make_rig
from scripts.synthetic.stamp import is_compatible, is_current, read_stamp
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.mesh_rasterizer import MeshBackend

logger = logging.getLogger(__name__)


GPU_BYTES = 3 << 30
"""GPU memory of a process for images of the benchmark's size; most of it is PyTorch's own."""


@dataclass(frozen=True)
class CaptureSet:
    """The captures of one folder."""

    root: Path
    subjects: dict[str, int]
    """Index of the person by subject id."""
    options: CaptureOptions


def shard(subjects: dict[str, int], part: str) -> dict[str, int]:
    """Every n-th subject from the i-th on, for a part `i/n` (0/2 and 1/2 split a set between two machines).

    Raises:
        InputError: If `part` has another form.
    """
    try:
        first, count = (int(x) for x in part.split("/"))
    except ValueError:
        first, count = 0, 0
    if not 0 <= first < count:
        raise InputError(f"--part {part}: must be i/n with i from 0 to n - 1, as in 0/2 and 1/2")
    return dict(list(subjects.items())[first::count])


def default_workers(people: int, device: str) -> int:
    """Number of processes: that of the processors, limited by the number of people and by GPU memory."""
    workers = min(os.cpu_count() or 1, people)
    if device == "cuda":
        memory = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        workers = min(workers, sum(memory) // GPU_BYTES)
    return max(workers, 1)


def write_dataset(
    root: Path, subjects: dict[str, int], options: CaptureOptions, *, spelling: str = "list", **how
) -> None:
    """Write captures of several people and `human.json`; complete captures are kept.

    Args:
        root: Folder of the set.
        subjects: Index of the person by subject id.
        options: Options of the captures.
        spelling: Keys of `human.json`: `list` (`view_id_list`, `pose_id_list`) or `short` (`view_id`, `pose_id`).
        how: Further arguments of `write_datasets`.
    """
    write_datasets([CaptureSet(root, subjects, options)], spelling=spelling, **how)


def write_datasets(
    sets: list[CaptureSet],
    *,
    device: str = "cpu",
    workers: int = 0,
    body_file: Path = STANDIN_BODY,
    spelling: str = "list",
    mesh_rasterizer: MeshBackend = "torch",
) -> None:
    """Write several sets of captures.

    Args:
        sets: The sets.
        device: Device that draws the images: `cpu`, or `cuda` for all GPUs if there are several workers.
        workers: Number of processes, each of which writes whole captures; 0 uses this process.
        body_file: Body model; the stand-in by default.
        spelling: See `write_dataset`.
        mesh_rasterizer: Backend that finds the visible faces.
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
            kept = len(chosen.subjects) - len(missing)
            logger.info("%s: %d of %d captures exist already", chosen.root, kept, len(chosen.subjects))
        todo += missing
    with tqdm(total=len(todo), desc="synthetic captures", unit="person", disable=not todo) as bar:
        if workers == 0:
            for folder, index, options in todo:
                write_capture(folder, index, options, body=body, device=device, mesh_rasterizer=mesh_rasterizer)
                bar.update()
        elif todo:
            jobs = [(*job, body_file, device, mesh_rasterizer) for job in todo]
            _write_in_processes(jobs, min(workers, len(jobs)), device, bar)
    for chosen in sets:
        _write_human_list(chosen.root, _subjects_of(chosen, body), chosen.options, spelling)


def _write_in_processes(jobs: list[tuple], workers: int, device: str, bar: tqdm) -> None:
    started = multiprocessing.get_context("spawn").Value("i", 0)
    with closing(in_processes(_write_one, jobs, workers, _start_worker, (device, started))) as outcomes:
        for _, outcome in outcomes:
            outcome.result()
            bar.update()


def _start_worker(device: str, started) -> None:
    """Initialise a worker process, with its GPU in turn among all."""
    torch.set_num_threads(1)
    with started.get_lock():
        number = started.value
        started.value += 1
    if device == "cuda":
        torch.cuda.set_device(number % torch.cuda.device_count())


def _write_one(job: tuple[Path, int, CaptureOptions, Path, str, MeshBackend]) -> None:
    """Write one capture in a worker process."""
    folder, index, options, body_file, device, mesh_rasterizer = job
    body = _worker_body(body_file)
    write_capture(folder, index, options, body=body, device=device, mesh_rasterizer=mesh_rasterizer)


@functools.cache
def _worker_body(body_file: Path) -> BodyModel:
    return load_body(body_file)


def _subjects_of(chosen: CaptureSet, body: BodyModel) -> list[str]:
    """Subjects of all compatible captures in the folder, because a set may be made in parts."""
    found = [folder for folder in sorted(chosen.root.glob("[!.]*")) if read_stamp(folder)]
    subjects = [folder.name for folder in found if is_compatible(folder, chosen.options, body)]
    if len(subjects) < len(found):
        logger.warning(
            "%s: %d captures have other cameras, other frames or another body, or were made by another version of this "
            "program; human.json leaves them out. Use another folder for each kind of capture",
            *(chosen.root, len(found) - len(subjects)),
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
