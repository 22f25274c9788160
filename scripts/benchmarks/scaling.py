"""Training on 1, 2, 4 and 8 GPUs with the same work per GPU: samples per second, efficiency, memory."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from core.checkpoint import save_checkpoint
from core.data.human_list import find_subjects
from core.data.readers import open_capture
from core.model.hgg import HumanGaussianGraph
from core.options import PRESETS, TrainOptions
from core.utils.device import DeviceName, pick_device
from core.utils.options_json import options_to_json
from core.utils.ranges import Count, CountOrZero
from scripts.benchmarks.common import report
from scripts.benchmarks.people import captures
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class ScalingTiming:
    """Training with a number of processes. `efficiency` is the rate per process relative to a single process."""

    processes: int
    samples: int
    step_ms: float
    samples_per_second: float
    efficiency: float | None
    peak_gb: float | None


def scaling(
    preset: str = "big",
    stage: Literal["frame", "graph", "joint"] = "graph",
    root: Path | None = None,
    processes: tuple[Count, ...] = (),
    batch_size: Count | None = None,
    workers: CountOrZero = 8,
    steps: Count = 30,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Train a preset for some steps with increasing numbers of processes, including data loading.

    Args:
        preset: A preset of main.py.
        stage: Stage of training; `graph` starts from a U-Net with random parameters.
        root: Captures to train on, preferably packed; by default synthetic people of the required image size.
        processes: Numbers of processes; by default 1, 2, 4, 8, up to the number of GPUs.
        batch_size: Subjects per step and process; by default that of the preset.
        workers: Loading processes per training process.
        steps: Timed steps, after a warm-up.
        device: Device to time.
        out: Also write the timings to this JSON file.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    where = pick_device(device)
    visible = torch.cuda.device_count() if where.type == "cuda" else 2
    counts = processes or tuple(count for count in COUNTS if count <= visible)
    if min(counts) < 1 or (where.type == "cuda" and max(counts) > visible) or steps < 1:
        raise InputError(f"--processes must be from 1 to the number of visible GPUs, {visible}; --steps at least 1")
    options = PRESETS[preset][1]
    height = max(options.data.image_size, 64)
    timings: list[ScalingTiming] = []
    with captures(root, 2, round(height * 1.1953125), height) as people, TemporaryDirectory() as folder:
        options = replace(
            options,
            data=replace(options.data, root=people, num_workers=workers, verify=False),
            stage=stage,
            workspace=Path(folder) / "run",
            batch_size=batch_size or options.batch_size,
            device=where.type,
            steps=10**6,
            max_minutes=None,
            validation=0,
            init=None,
        )
        if stage == "graph":
            options = replace(options, init=_random_network(options, people, Path(folder) / "start.safetensors"))
        for count in counts:
            result = _run(options, count, steps, Path(folder))
            samples = count * options.batch_size
            rate = samples / result["seconds"]
            one = timings[0] if timings and timings[0].processes == 1 else None
            efficiency = 1.0 if count == 1 else rate / count / one.samples_per_second if one else None
            timings.append(ScalingTiming(count, samples, 1000 * result["seconds"], rate, efficiency, result["peak_gb"]))
    header = ["processes", "samples per step", "ms per step", "samples/s", "efficiency", "peak GB"]
    print(report("scaling", header, timings, where, out))


def _random_network(options: TrainOptions, people: Path, path: Path) -> Path:
    """Write a checkpoint with random parameters for the body of the captures in `people`."""
    torch.manual_seed(0)
    body = open_capture(find_subjects(people)[0].path).body(options.data.body)
    save_checkpoint(path, HumanGaussianGraph(options.model, body))
    return path


def _run(options: TrainOptions, processes: int, steps: int, folder: Path) -> dict[str, float | None]:
    """Train in new processes; return seconds per step, and the largest peak GPU memory in GB."""
    (folder / "options.json").write_text(options_to_json(options), encoding="utf-8")
    command = [sys.executable, str(REPOSITORY / "scripts" / "launch.py"), "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--main_process_port", "0", "--num_processes", str(processes)]
    command += ["--multi_gpu"] if processes > 1 else []
    command += ["--cpu"] if options.device == "cpu" and processes == 1 else []
    command += ["--module", "scripts.benchmarks.scaling_process", str(folder), str(steps)]
    done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"training with {processes} processes failed: {lines[-1].removeprefix('error: ')}")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))
