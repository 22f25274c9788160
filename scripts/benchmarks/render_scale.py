"""Times of rasterizers from thousands to a million Gaussians, in several scenes, as a table and curves."""

import importlib.util
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from core.inference.report import format_table
from core.render import projection
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians
from scripts.benchmarks.common import machine, median_ms, peak_mb
from scripts.benchmarks.render_job import RenderJob, use_binning
from scripts.benchmarks.splat_scenes import SCENES, ring
from smpl_renderer.bounded_files import load_json
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

PEERS = ("gsplat", "diff_gaussian_rasterization")  # rasterizers of other projects
VARIANTS = {"triton": ("triton:cells", "triton:pairs")}  # what is timed of a backend
COUNTS = (160_000, 13_000, 80_000, 1_000_000, 320_000, 28_000)  # the most important first
VIEWS = (8, 32, 1)
SIZES = (512, 1024)
MAX_REPEATS = 20
MAX_MS_OF_REPEATS = 500.0
MAX_MS = 3000.0  # of a call; a backend that needs more is not timed at larger sizes
TILE = 8  # pixels along the side of a tile, by which pairs are counted
COLUMNS = 3  # panels in a row of the figure


@dataclass(frozen=True)
class Case:
    """One size of one scene."""

    scene: str
    gaussians: int
    views: int
    size: int


@dataclass(frozen=True)
class ScaleTiming:
    """Medians in milliseconds for all views together; None where the backend cannot run."""

    scene: str
    gaussians: int
    views: int
    size: int
    backend: str
    pairs: int
    """Pairs of a splat and a tile of 8 x 8 pixels that it reaches, in all views."""
    forward_ms: float | None = None
    both_ms: float | None = None
    graph_ms: float | None = None
    """Both passes replayed from a CUDA graph."""
    peak_mb: float | None = None
    """Peak memory of both passes beyond their inputs."""

    @property
    def case(self) -> Case:
        return Case(self.scene, self.gaussians, self.views, self.size)


def plan_cases(counts: Sequence[int], views: Sequence[int], sizes: Sequence[int], scenes: Sequence[str]) -> list[Case]:
    """Cases in the order of their importance; empty arguments stand for all values."""
    unknown = [name for name in scenes if name not in SCENES]
    if unknown:
        raise InputError(f"unknown scene {unknown[0]!r}; choose from {', '.join(SCENES)}")
    counts, scenes, sizes = counts or COUNTS, scenes or tuple(SCENES), sizes or SIZES
    views = sorted(views, key=lambda v: VIEWS.index(v) if v in VIEWS else len(VIEWS))
    first = [Case(scenes[0], n, v, sizes[0]) for v in views for n in counts]
    others = [Case(scene, n, views[0], sizes[0]) for scene in scenes[1:] for n in counts]
    larger = [Case(scenes[0], n, v, size) for size in sizes[1:] for v in views for n in counts]
    rest = [Case(s, n, v, size) for size in sizes for s in scenes for v in views for n in counts]
    return list(dict.fromkeys([*first, *others, *larger, *rest]))


def measure(
    backends: Sequence[str], cases: Sequence[Case], device: torch.device, minutes: float, repeats: int | None, out: Path
) -> None:
    """Time all cases by all backends within a time; write JSON after each, then the table and the curves.

    Args:
        minutes: No case starts after this time.
        repeats: Largest number of timed calls.
        out: Measurements of the same machine in it are kept. The figure gets its name with `.png`.
    """
    start = time.monotonic()
    timings = _read(out, machine(device))
    done = {(t.case, t.backend) for t in timings}
    for case in tqdm(cases, desc="scale", unit="case"):
        beyond = {t.backend for t in timings if _is_beyond(case, t)}
        missing = [name for name in backends if (case, name) not in done and name not in beyond]
        if not missing:
            continue
        if time.monotonic() - start > 60 * minutes:
            break
        pairs = count_pairs(*_inputs(case, device), TILE)
        timings += [time_case(name, case, pairs, device, repeats or MAX_REPEATS) for name in missing]
        _write(out, timings, device)
    print(format_scale(timings))
    print(machine(device))
    figure = out.with_suffix(".png")
    draw(timings, figure)
    print(f"wrote {out} and {figure}")


def _is_beyond(case: Case, timing: ScaleTiming) -> bool:
    """True if a case is at least as large as one that did not fit or took long."""
    failed = timing.both_ms is None or timing.both_ms > MAX_MS
    own = timing.case
    larger = case.gaussians >= own.gaussians and case.views >= own.views and case.size >= own.size
    return failed and larger and case.scene == own.scene


def _inputs(case: Case, device: torch.device) -> tuple[Gaussians, Cameras]:
    return SCENES[case.scene](case.gaussians, 0).to(device), ring(case.views, case.size).to(device)


def time_case(backend: str, case: Case, pairs: int, device: torch.device, repeats: int) -> ScaleTiming:
    """Time one backend; its times are None if the memory does not suffice, or its binning cannot work."""
    own = asdict(case) | {"backend": backend, "pairs": pairs}
    if backend.startswith("triton:") and not _can_bin(backend.partition(":")[2], case, device):
        return ScaleTiming(**own)
    measured: dict[str, float | None] = {}
    try:
        job = RenderJob(backend, case.gaussians, case.views, case.size, device, case.scene)
        once = median_ms(job.forward_backward, 1, device, warm_up=1)  # the first call compiles and measures lists
        few = max(1, min(repeats, int(MAX_MS_OF_REPEATS / max(once, 1e-3))))
        measured["forward_ms"] = median_ms(job.forward_without_gradients, few, device, warm_up=min(few, 3))
        measured["both_ms"] = median_ms(job.forward_backward, few, device, warm_up=min(few, 3))
        measured["peak_mb"] = peak_mb(job.forward_backward, device)
        measured["graph_ms"] = job.graph_ms(few)  # last: it needs the memory of all inputs' renderings
    except (RuntimeError, InputError) as error:  # memory, mostly; a case that fails does not end the others
        logger.warning("%s, %s: %s", backend, case, str(error).partition("\n")[0])
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return ScaleTiming(**own, **measured)


def _can_bin(binning: str, case: Case, device: torch.device) -> bool:
    """False if `triton` would use another binning for this case. (Triton is not installed everywhere.)"""
    if binning == "auto":
        return True
    from core.render.binning import choose_binning

    with use_binning(binning):
        return choose_binning(device, case.views, case.gaussians, case.size, case.size, TILE) == binning


@torch.no_grad()
def count_pairs(gaussians: Gaussians, cameras: Cameras, tile: int) -> int:
    """Number of pairs of a splat and a tile that it reaches with alpha >= ALPHA_MIN, summed over the views.

    An ellipse that passes between pixel centres of a tile counts. Rows of tiles are tested one after the other.
    """
    return sum(
        _count_pairs(projection.project(gaussians, viewmat, K, cameras.width, cameras.height), gaussians, cameras, tile)
        for viewmat, K in zip(cameras.viewmats, cameras.Ks)
    )


def _count_pairs(splats: projection.Splats, gaussians: Gaussians, cameras: Cameras, tile: int) -> int:
    (x, y), (p, q, r) = splats.means2d.unbind(-1), splats.whiteners.unbind(-1)
    level = 2 * torch.log(gaussians.opacities.clamp_min(projection.ALPHA_MIN) / projection.ALPHA_MIN)
    root = level.sqrt()
    half_height, top = root / r, q * root / (r * torch.hypot(q, r))
    drawn = splats.extents[..., 0] > 0
    rows, columns = -(-cameras.height // tile), -(-cameras.width // tile)
    count = torch.zeros((), dtype=torch.int64, device=x.device)
    first_rows = ((y - half_height + 0.5) / tile).ceil().sub(1).clamp(0, rows)
    last_rows = ((y + half_height - 0.5) / tile).floor().clamp(-1, rows - 1)
    heights = torch.where(drawn, last_rows - first_rows + 1, 0)
    for step in range(int(heights.max())):
        row = first_rows + step
        low = torch.maximum(row * tile + 0.5 - y, -half_height)
        high = torch.minimum((row + 1) * tile - 0.5 - y, half_height)
        right_y, left_y = (torch.minimum(torch.maximum(at, low), high) for at in (-top, top))
        right = x + ((level - (r * right_y).square()).clamp_min(0).sqrt() - q * right_y) / p
        left = x - ((level - (r * left_y).square()).clamp_min(0).sqrt() + q * left_y) / p
        first = ((left + 0.5) / tile).ceil().sub(1).clamp(0, columns)
        last = ((right - 0.5) / tile).floor().clamp(-1, columns - 1)
        own = torch.where((step < heights) & (low <= high), (last - first + 1).clamp_min(0), 0)
        count += own.sum(dtype=torch.float64).long()
    return int(count)


def format_scale(timings: Sequence[ScaleTiming]) -> str:
    """Table of all timings: pairs, times, time per pair, memory, and the ratios to the first peer that was timed."""
    baseline = _baseline(timings)
    base = {t.case: t for t in timings if t.backend == baseline}
    header = ["scene", "Gaussians", "views", "pixels", "backend", "M pairs", "forward ms", "both ms", "graph ms"]
    header += ["forward ns/pair", "peak MB", f"forward vs {baseline}", f"both vs {baseline}"]

    def ratio(case: Case, name: str, value: float | None) -> float | None:
        reference = getattr(base.get(case), name, None)
        return None if reference is None or value is None else reference / value

    rows = []
    for t in sorted(timings, key=lambda t: (t.scene, t.size, t.views, t.gaussians)):
        per_pair = None if t.forward_ms is None or not t.pairs else 1e6 * t.forward_ms / t.pairs
        rows.append(
            [
                *(t.scene, str(t.gaussians), str(t.views), str(t.size), t.backend, t.pairs / 1e6),
                *(t.forward_ms, t.both_ms, t.graph_ms, per_pair, t.peak_mb),
                *(ratio(t.case, "forward_ms", t.forward_ms), ratio(t.case, "both_ms", t.both_ms)),
            ]
        )
    return format_table(header, rows) if rows else "no case was timed"


def _baseline(timings: Sequence[ScaleTiming]) -> str:
    names = [t.backend for t in timings]
    return next((name for name in (*PEERS, *names) if name in names), "")


def draw(timings: Sequence[ScaleTiming], path: Path) -> None:
    """Draw times over numbers of Gaussians: a panel per scene, image size and number of views."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the curves need matplotlib, which is not installed: pip install matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = [t for t in timings if t.both_ms is not None]
    cases = sorted(dict.fromkeys((list(SCENES).index(t.scene), t.size, t.views) for t in timed))
    columns = min(COLUMNS, max(1, len(cases)))
    rows = max(1, -(-len(cases) // columns))
    figure = Figure(figsize=(1 + 3.2 * columns, 0.6 + 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    names = list(dict.fromkeys(t.backend for t in timed))
    for axes in panels.flat[len(cases) :]:
        axes.set_axis_off()
    for axes in panels.flat[max(0, len(cases) - columns) : len(cases)]:  # the last of each column
        axes.tick_params(labelbottom=True)
    for (scene_index, size, views), axes in zip(cases, panels.flat):
        scene = list(SCENES)[scene_index]
        for index, name in enumerate(names):
            some = [t for t in timed if (t.scene, t.size, t.views, t.backend) == (scene, size, views, name)]
            some.sort(key=lambda t: t.gaussians)
            counts = [t.gaussians for t in some]
            axes.plot(counts, [t.forward_ms for t in some], "o-", color=f"C{index}", markersize=3, label=name)
            axes.plot(counts, [t.both_ms for t in some], "x--", color=f"C{index}", markersize=4, linewidth=1)
        axes.set(xscale="log", yscale="log", title=f"{scene}, {views} view{'s' * (views > 1)}, {size} px")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3, which="both")
    if timed:
        free = panels.flat[len(cases)] if len(cases) < panels.size else panels[0][0]
        free.legend(*panels[0][0].get_legend_handles_labels(), loc="upper left", fontsize=7)
        figure.supxlabel("Gaussians", fontsize=9)
        figure.supylabel("milliseconds (solid: forward; dashed: forward and backward)", fontsize=9)
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _read(path: Path, here: str) -> list[ScaleTiming]:
    """Timings of an earlier run on the same machine."""
    if not path.is_file():
        return []
    results = load_json(path)
    try:
        if results["machine"] != here:
            return []
        return [ScaleTiming(**timing) for timing in results.get("scale", [])]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} does not hold timings of this benchmark; choose another file for --out") from error


def _write(path: Path, timings: Sequence[ScaleTiming], device: torch.device) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        results = {"machine": machine(device), "scale": [asdict(timing) for timing in timings]}
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
