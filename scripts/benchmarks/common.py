"""Timing by median durations, peak memory, and tables of results."""

import datetime
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.inference.report import format_table
from smpl_renderer.bounded_files import load_json
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

WARM_UP = 3  # untimed calls: compilation, caches, the allocator


def median_ms(call: Callable[[int], object], repeats: int, device: torch.device, warm_up: int = WARM_UP) -> float:
    """Median duration of `call(i)` in milliseconds over `repeats` calls, by CUDA events on a GPU."""
    for i in range(warm_up):
        call(i)
    times = []
    for i in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call(i)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            start = time.perf_counter()
            call(i)
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def host_ms(call: Callable[[int], object], repeats: int, device: torch.device, warm_up: int = 1) -> float:
    """Median time in milliseconds until `call(i)` returns; on a GPU, its kernels may still run then."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for i in range(warm_up):
        call(i)
    times = []
    for i in range(repeats):
        synchronize()  # otherwise a full launch queue may block the call
        start = time.perf_counter()
        call(i)
        times.append(1000 * (time.perf_counter() - start))
    synchronize()
    return statistics.median(times)


def peak_mb(call: Callable[[int], object], device: torch.device) -> float | None:
    """Peak device memory of a call beyond what was allocated before, in MB; None on a CPU, where it is not recorded."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call(0)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def graph_replay(call: Callable[[int], object], index: int = 0) -> Callable[[int], None]:
    """Capture `call(index)` in a CUDA graph, and return a function that replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call(index)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call(index)

    def replay(_: int, kept: object = kept) -> None:  # the outputs of the graph must stay allocated
        graph.replay()

    return replay


PACKAGES = ("triton", "gsplat", "diff_gaussian_rasterization")
"""Packages, beside PyTorch, whose versions affect the timings."""


def machine(device: torch.device) -> str:
    """Device, package versions and date of a measurement."""
    if device.type == "cuda":
        parts = [torch.cuda.get_device_name(device), f"PyTorch {torch.__version__}", *map(_version, PACKAGES)]
    else:
        threads = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
        parts = [threads, f"PyTorch {torch.__version__}", _version("numba")]
    return ", ".join([*filter(None, parts), f"{datetime.date.today():%Y-%m-%d}"])


def _version(package: str) -> str | None:
    """Name of a package with its version, if recorded; None if it is not installed."""
    if importlib.util.find_spec(package) is None:
        return None
    version = package_version(package)
    return package if version is None else f"{package} {version}"


def package_version(package: str) -> str | None:
    """Version of a package; None if it is not installed, or is a folder on the path without installation metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report(
    name: str, header: Sequence[str], timings: Sequence[Any], device: torch.device, out: Path | None = None
) -> str:
    """Format timings as a table, and optionally write them as JSON.

    Args:
        name: Key of the timings in the file.
        header: Column headings.
        timings: Dataclasses, one row each; their fields are the columns.
        device: The device that was timed.
        out: JSON file to update; entries of other benchmarks in it are kept.
    """
    rows = [[str(x) if isinstance(x, int) else x for x in asdict(t).values()] for t in timings]
    if out is not None:
        results = load_json(out) if out.is_file() else {}
        if not isinstance(results, dict):
            raise InputError(f"{out}: holds no timings of this script; name another file with --out")
        results |= {"machine": machine(device), name: [asdict(timing) for timing in timings]}
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return f"{format_table(list(header), rows)}\n{machine(device)}"
