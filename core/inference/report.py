"""Metrics of an evaluation, as a table and as `metrics.json`.

`metrics.json` holds, for each of the splits `novel_view` and `novel_pose`, means of the metrics over images:

    mean                {split: metrics}, the mean over subjects
    subjects            {subject: {split: metrics}}
    baselines           {baseline: {mean, subjects}}, in the same form
    settings.protocol   what two comparable runs must have in common: sizes, frames and views of every subject
    settings.*          the rest: checkpoint, device, backend, versions
"""

import json
from pathlib import Path
from typing import Any

from core.utils.aliases import current_protocol
from smpl_renderer.bounded_files import load_json
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

SPLITS = ("novel_view", "novel_pose")
METRICS = ("psnr", "psnr_box", "ssim", "lpips", "lpips_alex")
LOWER_IS_BETTER = ("lpips", "lpips_alex")
DECIMALS = {"psnr": 2, "psnr_box": 2, "ssim": 4, "lpips": 4, "lpips_alex": 4}

Metrics = dict[str, Any]


def mean_metrics(items: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each metric; None for a metric that was not measured."""
    result = {}
    for name in items[0]:
        values = [item[name] for item in items]
        result[name] = None if any(v is None for v in values) else sum(values) / len(values)
    return result


def summarise(subjects: dict[str, dict[str, dict[str, float | None]]]) -> Metrics:
    """`{mean, subjects}` of one method. Subjects without a split do not contribute to its mean."""
    mean = {}
    for split in SPLITS:
        items = [splits[split] for splits in subjects.values() if splits[split]]
        mean[split] = mean_metrics(items) if items else {}
    return {"mean": mean, "subjects": subjects}


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Write a `metrics.json`."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def read_metrics(path: Path) -> Metrics:
    """Read a `metrics.json`.

    Raises:
        InputError: If it is missing, or not the result of an evaluation.
    """
    remedy = "write it with python infer.py --evaluate"
    metrics = load_json(path)
    if not isinstance(metrics, dict) or not {"mean", "subjects", "settings"} <= metrics.keys():
        raise InputError(f"{path}: not an evaluation, it lacks mean, subjects or settings; {remedy}")
    if not isinstance(metrics["settings"], dict) or not {"protocol", "checkpoint"} <= metrics["settings"].keys():
        raise InputError(f"{path}: not an evaluation, its settings lack protocol or checkpoint; {remedy}")
    try:
        protocol = current_protocol(metrics["settings"]["protocol"])
    except (AttributeError, TypeError) as error:
        raise InputError(f"{path}: not an evaluation, its protocol is of another form; {remedy}") from error
    return metrics | {"settings": metrics["settings"] | {"protocol": protocol}}


def metrics_table(metrics: Metrics) -> str:
    """Table of `infer.py --evaluate`: every subject, the mean, and the means of the baselines."""
    rows = [["ours", subject, splits] for subject, splits in metrics["subjects"].items()]
    rows.append(["ours", "mean", metrics["mean"]])
    rows += [[name, "mean", baseline["mean"]] for name, baseline in metrics["baselines"].items()]
    header = ["method", "subject", "split", *(f"{m} {'↓' if m in LOWER_IS_BETTER else '↑'}" for m in METRICS)]
    cells = [
        [method, subject, split.replace("_", " "), *(splits[split].get(metric) for metric in METRICS)]
        for split in SPLITS
        for method, subject, splits in rows
    ]
    return format_table(header, cells)


def format_table(header: list[str], rows: list[list]) -> str:
    """Format a table with text aligned left and values right.

    None is a dash. The number of decimals is that of the metric in a column's heading, or in the last heading with a
    metric before it.
    """
    decimals, current = [], 2
    for name in header:
        current = DECIMALS.get(name.split(" ")[0], current)
        decimals.append(current)

    def cell(value, places: int) -> str:
        if value is None:
            return "-"
        return value if isinstance(value, str) else f"{value:.{places}f}"

    lines = [header] + [[cell(value, places) for value, places in zip(row, decimals)] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [all(isinstance(row[i], str) for row in rows) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(c.ljust(w) if left else c.rjust(w) for c, w, left in zip(line, widths, text)).rstrip()
        for line in lines
    )
