"""Measure body fits on synthetic people whose bodies are known: python scripts/measure_fits.py --subjects 20

Images are drawn, read by the landmark network and stored at first use; masks and true bodies are withheld. With
--rig FOLDER, fits of a real rig from one camera and from some are compared with those from all; the demo of the package
pose2sim is such a folder, once its videos and its calibration/ lie in one.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import json
import os
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
import tyro
from tqdm import tqdm

from core.inference.report import format_table
from core.utils.cli import run
from core.utils.device import DeviceName, pick_device
from core.utils.processes import in_processes
from core.utils.ranges import Count, CountOrZero, Seed, checked
from scripts.benchmarks.fit_metrics import METRICS, fit_errors
from scripts.benchmarks.fit_scenes import FitScene, load_scene, perturbed
from scripts.benchmarks.rig_fits import RIG_METRICS, measure_rig, read_rig
from scripts.results.markdown import table as markdown_table
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.files import atomic_path
from smpl_renderer.fitting import FitOptions, fit_bodies
from smpl_renderer.fitting.weights import Weights

CAPTURES = {
    "phone": "one still camera, the subject turns once, 8 frames (`phone`)",
    "poses": "one still camera, unlike poses, 8 frames (`poses`)",
    "rig4": "4 calibrated cameras, 4 frames (`rig4`)",
    "refine4": "bodies 40 mm off, masks of 4 cameras only (`refine4`)",
    "refine16": "bodies 40 mm off, masks of 16 cameras only (`refine16`)",
}
DOCUMENTED = {
    "raw": "vertices, mm",
    "depth": "after one depth factor",
    "PA": "Procrustes",
    "elbow": "elbow, degrees",
    "knee": "knee",
    "body IoU": "body IoU",
    "gravity": "gravity, degrees",
    "s/frame": "s a frame",
}
"""Metrics of the table in Markdown, and their headings."""


@dataclass(frozen=True)
class Options:
    """Options of the measurement."""

    kinds: tuple[Literal["phone", "poses", "rig4", "refine4", "refine16"], ...] = ("phone", "rig4")
    """phone: one still camera, the subject turns around, 8 frames. poses: the same in unlike poses. rig4: 4 calibrated
    cameras, 4 frames. refine4, refine16: true bodies perturbed by 40 mm, refined by the masks of 4 or 16 cameras."""
    subjects: Count = 20
    first: CountOrZero = 0
    """Index of the first subject."""
    masks: Literal["true", "network"] = "true"
    """True masks, or the landmark network's, sharpened."""
    variant: Literal["full", "heavy"] = "full"
    """Variant of the landmark network."""
    workers: CountOrZero = 0
    """Number of processes; 0: one per two cores on a CPU, one on a GPU."""
    device: DeviceName = "cpu"
    scenes: Path = Path("workspace/fit_scenes")
    """Folder of drawn and read scenes."""
    seed: Seed = 0
    rig: Path | None = None
    """Folder of a real, calibrated rig, as scripts/prepare_capture.py takes it: measured instead of the kinds."""
    rig_frames: Count = 8
    """Number of frames of that rig."""
    out: Path | None = None
    """Also write all numbers as JSON."""
    markdown: Path | None = None
    """Also write the table of docs/own_capture.md."""
    each: bool = False
    """Print a row per subject."""
    fit: FitOptions = field(default_factory=FitOptions)
    weights: Weights = field(default_factory=Weights)


def main(options: Options) -> None:
    """Print the table of errors; means over subjects."""
    rows = _measure_rig(options) if options.rig is not None else _measure_subjects(options)
    if options.out is not None:
        with atomic_path(options.out) as path:
            path.write_text(json.dumps(rows, indent=1))


def _measure_rig(options: Options) -> list[dict]:
    """Rows of `RIG_METRICS`, printed too."""
    scene = read_rig(options.rig, options.rig_frames, str(pick_device(options.device)), options.weights)
    count = 2 * scene.observations.num_cameras - 1
    measured = measure_rig(scene, options.fit, options.weights)
    rows = list(tqdm(measured, total=count, desc="fits", unit="fit"))
    cells = [[_text(name, row[name]) for name in RIG_METRICS] for row in rows]
    print(format_table(list(RIG_METRICS), cells))
    if options.markdown is not None:
        with atomic_path(options.markdown) as path:
            path.write_text(markdown_table(list(RIG_METRICS), cells))
    return rows


def _measure_subjects(options: Options) -> list[dict]:
    """Errors of each subject of each kind; means are printed."""
    device = pick_device(options.device)
    workers = options.workers or (1 if device.type == "cuda" else max(1, (os.cpu_count() or 2) // 2))
    jobs = [(kind, options.first + i) for kind in options.kinds for i in range(options.subjects)]
    measure = partial(_measure, options=options, device=str(device), threads=1 if workers > 1 else 2)
    if workers > 1:
        bar = tqdm(in_processes(measure, jobs, workers), total=len(jobs), desc="fits", unit="subject")
        done = {job: outcome.result() for job, outcome in bar}
        results = [done[job] for job in jobs]
    else:
        results = [measure(job) for job in tqdm(jobs, desc="fits", unit="subject")]
    print(_table(jobs, results, options))
    if options.markdown is not None:
        with atomic_path(options.markdown) as path:
            path.write_text(_markdown(jobs, results, options))
    return [{"kind": kind, "subject": index, **result} for (kind, index), result in zip(jobs, results)]


def _measure(job: tuple[str, int], options: Options, device: str, threads: int) -> dict[str, float | None]:
    """Errors of one subject's fit, and the seconds per frame."""
    torch.set_num_threads(threads)
    kind, index = job
    body = load_body(STANDIN_BODY)
    of_scene = kind.replace("refine", "rig")
    scene = load_scene(of_scene, index, body, options.scenes, options.seed, options.variant, options.masks == "true")
    initial = None
    if kind.startswith("refine"):
        initial = perturbed(scene.truth, body, 0.04, index)
        scene = replace(scene, observations=_masks_only(scene))
    start = time.perf_counter()
    moved = None if initial is None else initial.to(device)
    result = fit_bodies(
        scene.observations.to(device), body.to(device), options.fit, initial=moved, weights=options.weights
    )
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    errors = fit_errors(result.to("cpu"), scene, body.to("cpu"))
    return errors | {"s/frame": seconds / scene.observations.num_frames}


def _masks_only(scene: FitScene):
    return replace(scene.observations, landmarks=None, visibility=None, world_landmarks=None)


def _table(jobs: list[tuple[str, int]], results: list[dict], options: Options) -> str:
    names = [*METRICS, "s/frame"]
    rows = []
    for kind in options.kinds:
        own = [(index, result) for (k, index), result in zip(jobs, results) if k == kind]
        if options.each:
            rows += [[f"{kind} {index}", *(_text(name, result[name]) for name in names)] for index, result in own]
        rows.append([f"{kind} ({len(own)})", *_means([result for _, result in own], names)])
    return format_table(["", *names], rows)


def _markdown(jobs: list[tuple[str, int]], results: list[dict], options: Options) -> str:
    rows = []
    for kind in options.kinds:
        own = [result for (k, _), result in zip(jobs, results) if k == kind]
        what = CAPTURES[kind] + (", the network's masks" if options.masks == "network" else "")
        rows.append([what, str(len(own)), *_means(own, list(DOCUMENTED))])
    return markdown_table(["capture", "subjects", *DOCUMENTED.values()], rows)


def _means(results: list[dict], names: list[str]) -> list[str]:
    columns = [[result[name] for result in results if result[name] is not None] for name in names]
    return [_text(name, sum(v) / len(v) if v else None) for name, v in zip(names, columns)]


def _text(name: str, value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.{3 if 'IoU' in name else 2 if name == 's/frame' else 1}f}"


if __name__ == "__main__":
    run(lambda: checked(main)(tyro.cli(Options)))
