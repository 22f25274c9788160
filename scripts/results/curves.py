"""Learning curves of training runs, from the logs of their workspaces: a subsampled CSV file and a plot."""

import csv
import importlib.util
import math
from pathlib import Path

from core.training.logs import read_rows
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

POINTS = 200
"""Maximum number of points of a curve; each is the mean over an interval of steps."""
COLUMNS = ("run", "step", "loss", "psnr", "novel_view", "novel_pose")

Row = dict[str, float | str]


def write_curves(workspaces: tuple[Path, ...], out: Path) -> None:
    """Write `curves.csv` and `curves.png` of one or more runs into a folder.

    Raises:
        InputError: If a workspace has no log, or matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("learning curves need matplotlib, which is not installed: pip install matplotlib")
    names = [workspace.resolve().name for workspace in workspaces]
    if len(set(names)) < len(names):
        names = [str(workspace) for workspace in workspaces]
    runs = {name: learning_curve(workspace) for name, workspace in zip(names, workspaces)}
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "curves.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for name, rows in runs.items():
            writer.writerows({"run": name} | row for row in rows)
    with atomic_path(out / "curves.png") as temporary:
        _plot(runs, temporary)


def learning_curve(workspace: Path) -> list[Row]:
    """Loss and PSNR of the training people, averaged over intervals, and PSNR of the held-out people.

    Raises:
        InputError: If there is no log.
    """
    path = workspace / "log.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the --workspace of a training")
    steps = read_rows(path)
    interval = max(1, math.ceil(len(steps) / POINTS))
    rows: list[Row] = []
    for first in range(0, len(steps), interval):
        some = steps[first : first + interval]
        means = {name: _mean([row[name] for row in some]) for name in ("loss", "psnr")}
        rows.append({"step": some[-1]["step"], **{name: f"{x:.5g}" for name, x in means.items() if x == x}})
    scores = workspace / "scores.csv"
    for row in read_rows(scores) if scores.is_file() else []:
        measured = {name: f"{row[name]:.3f}" for name in ("novel_view", "novel_pose") if name in row}
        rows.append({"step": row["step"], **measured})
    return sorted(rows, key=lambda row: row["step"])


def _plot(runs: dict[str, list[Row]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss_axes, psnr_axes = figure.subplots(1, 2)
    splits = {"novel_view": "o-", "novel_pose": "x--"}
    has_scores = any(split in row for rows in runs.values() for row in rows for split in splits)
    for i, (name, rows) in enumerate(runs.items()):
        color = f"C{i % 10}"
        loss_axes.plot(*_points(rows, "loss"), color=color, linewidth=1, label=name)
        psnr_axes.plot(*_points(rows, "psnr"), color=color, linewidth=0.8, alpha=0.4 if has_scores else 1)
        for split, marker in splits.items():
            psnr_axes.plot(*_points(rows, split), marker, color=color, linewidth=1, markersize=4)
    for split, marker in splits.items() if has_scores else ():
        psnr_axes.plot([], [], marker, color="grey", linewidth=1, markersize=4, label=split.replace("_", " "))
    title = "faint: training people; marked: held-out people" if has_scores else "training people"
    loss_axes.set(xlabel="step", ylabel="training loss", yscale="log")
    psnr_axes.set(xlabel="step", ylabel="PSNR, dB", title=title)
    for axes in (loss_axes, psnr_axes):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    psnr_axes.title.set_fontsize(8)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=90)


def _points(rows: list[Row], column: str) -> tuple[list[float], list[float]]:
    some = [(row["step"], float(row[column])) for row in rows if column in row]
    return [step for step, _ in some], [value for _, value in some]


def _mean(values: list[float]) -> float:
    """Mean of the finite values; NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
