"""Make or refine the body fits of captures in MVHumanNet's layout: python scripts/fit_body.py mvhuman_24

Each frame's body is written to optimized_smpl_points/ of its subject. An interrupted run resumes.
With --standin the shipped body is fitted to the vertices of SMPL's fits, in a copy beside ROOT, without SMPL's file.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
import os
from functools import partial

import torch
import tyro
from tqdm import tqdm

from core.capture.other_body import CopyReport, copy_to_standin, default_copy, link_lists
from core.capture.refit import RefitOptions, RefitReport, refit_subject
from core.data.human_list import find_subjects
from core.utils.cli import run
from core.utils.device import pick_device
from core.utils.processes import in_processes
from core.utils.ranges import Workers, checked
from smpl_renderer.errors import InputError

logger = logging.getLogger("fit_body")


def main(
    root: tyro.conf.Positional[Path],
    options: tyro.conf.OmitArgPrefixes[RefitOptions],
    workers: Workers = -1,
    standin: bool = False,
    out: Path | None = None,
) -> None:
    """Fit a body to every frame of the subjects in a folder.

    Args:
        root: A capture, or a folder of captures.
        workers: Processes, each with one subject at a time; 0 uses this one, -1 one per two processors without a GPU.
        standin: Fit the shipped stand-in body to the posed vertices that the fits of another body (SMPL) store, and
            write captures of the stand-in, with links to images and cameras. The captures in ROOT stay as they are.
        out: Folder of those captures; by default `<ROOT>_standin`.
    """
    if standin and options.body is not None:
        raise InputError("--standin and --body name two bodies; give one of them")
    if out is not None and not standin:
        raise InputError("--out belongs to --standin; other fits are written into the captures")
    paths = [entry.path for entry in find_subjects(root)]
    if workers < 0:
        on_gpu = pick_device(options.device).type == "cuda"
        workers = 0 if on_gpu else min((os.cpu_count() or 1) // 2, len(paths))
    copies = _copies(root, paths, out) if standin else [None] * len(paths)
    jobs = list(zip(paths, copies))
    work = partial(_subject, options=options, threads=0 if workers <= 1 else 1)
    if workers <= 1:
        results = [work(job) for job in tqdm(jobs, desc="fit", unit="subject")]
    else:
        bar = tqdm(in_processes(work, jobs, workers), total=len(paths), desc="fit", unit="subject")
        done = {path: outcome.result() for (path, _), outcome in bar}
        results = [done[path] for path in paths]
    broken = 0
    for path, result in zip(paths, results):
        if isinstance(result, str):
            broken += 1
            logger.error("%s", result)
        else:
            logger.info("%s: %s", path, _summary(result))
    if standin and broken < len(paths):
        logger.info("captures of the stand-in body: %s", default_copy(root) if out is None else out)
    if broken:
        raise InputError(f"{root}: {broken} of {len(paths)} captures could not be fitted; the reasons are stated above")


def _copies(root: Path, paths: list[Path], out: Path | None) -> list[Path]:
    """Folders of the copies; a folder of captures becomes a folder of captures, with its lists."""
    out = default_copy(root) if out is None else out
    if out.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{out}: is {root} or lies in it; give another folder by --out")
    if [path.resolve() for path in paths] == [root.resolve()]:
        return [out]
    link_lists(root, out)
    return [out / path.name for path in paths]


def _subject(job: tuple[Path, Path | None], options: RefitOptions, threads: int) -> RefitReport | CopyReport | str:
    """Report of one subject, or what is wrong with it: the others go on."""
    if threads:
        torch.set_num_threads(threads)
    path, copy = job
    try:
        return refit_subject(path, options) if copy is None else copy_to_standin(path, copy, options)
    except InputError as error:
        return str(error)


def _summary(report: RefitReport | CopyReport) -> str:
    text = f"{len(report.written)} frames fitted, {len(report.skipped)} were there"
    if isinstance(report, CopyReport):
        if report.errors:
            mean = sum(report.errors) / len(report.errors)
            text += f", the body is {1000 * mean:.1f} mm away from the vertices on average"
    elif report.ious:
        text += f", bodies and masks overlap by {sum(report.ious) / len(report.ious):.0%}"
    for frame, reason in list(report.failed.items())[:5]:
        text += f"; frame {frame:04d} has no usable fit ({reason})"
    if len(report.failed) > 5:
        text += f"; {len(report.failed)} without a usable fit in all"
    return text


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main), config=(tyro.conf.FlagCreatePairsOff,)))
