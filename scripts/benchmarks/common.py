"""Timing: medians on the device's own clock, peak memory, and tables of them."""

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
from smpl_renderer.files import atomic_path

WARM_UP = 3  # calls before the clock starts: compilation, caches, the allocator


def median_ms(call: Callable[[int], object], repeats: int, device: torch.device, warm_up: int = WARM_UP) -> float:
    """Median duration of `call(i)` over `repeats` calls, by the device's own clock."""
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
    """Median time until `call(i)` returns, which on a GPU is before its work is done, unless it waits for that."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for i in range(warm_up):
        call(i)
    times = []
    for i in range(repeats):
        wait()  # else a full queue of launches may be what it waits for
        start = time.perf_counter()
        call(i)
        times.append(1000 * (time.perf_counter() - start))
    wait()
    return statistics.median(times)


def peak_mb(call: Callable[[int], object], device: torch.device) -> float | None:
    """Device memory that a call needs beyond what is there before; None on a CPU, where PyTorch does not count it."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call(0)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def graph_replay(call: Callable[[int], object], index: int = 0) -> Callable[[int], None]:
    """Record `call(index)` in a CUDA graph, and return what plays it back."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call(index)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call(index)

    def replay(_: int, kept: object = kept) -> None:  # what the graph writes to must stay allocated
        graph.replay()

    return replay


PACKAGES = ("triton", "gsplat", "diff_gaussian_rasterization")
"""Whose versions numbers depend on, beside PyTorch's."""


def machine(device: torch.device) -> str:
    """What the numbers were measured on, and when."""
    if device.type == "cuda":
        parts = [torch.cuda.get_device_name(device), f"PyTorch {torch.__version__}", *map(_version, PACKAGES)]
    else:
        threads = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
        parts = [threads, f"PyTorch {torch.__version__}"]
    return ", ".join([*filter(None, parts), f"{datetime.date.today():%Y-%m-%d}"])


def _version(package: str) -> str | None:
    """A package's name and, if it says so, version; None if it is not installed."""
    if importlib.util.find_spec(package) is None:
        return None
    version = package_version(package)
    return package if version is None else f"{package} {version}"


def package_version(package: str) -> str | None:
    """None if it is not installed, or is a folder on the path without a record of its installation."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report(
    name: str, header: Sequence[str], timings: Sequence[Any], device: torch.device, out: Path | None = None
) -> str:
    """A table of timings (dataclasses, one column a field); as JSON in the file `out`, too, if there is to be one.

    A file keeps what other benchmarks wrote there.
    """
    rows = [[str(x) if isinstance(x, int) else x for x in asdict(t).values()] for t in timings]
    if out is not None:
        numbers = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        numbers |= {"machine": machine(device), name: [asdict(timing) for timing in timings]}
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return f"{format_table(list(header), rows)}\n{machine(device)}"
