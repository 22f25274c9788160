"""Logs of a run: `log.csv` (a row per step), `scores.csv` (a row per evaluation) and TensorBoard."""

import csv
import logging
import math
import os
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from core.training.step import TERMS
from core.utils.aliases import current_column
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

COLUMNS = ("step", "lr", *TERMS, "grad_norm")
"""Columns of `log.csv`."""


class RunLog:
    """Log files, written by the main process.

    Rows beyond the step that a run resumes from are dropped, because these steps are repeated.
    """

    def __init__(self, workspace: Path, resumed_step: int):
        self.workspace = workspace
        workspace.mkdir(parents=True, exist_ok=True)
        for name in ("log.csv", "scores.csv"):
            _truncate(workspace / name, resumed_step)
        self.board = SummaryWriter(str(workspace / "tensorboard"), purge_step=resumed_step + 1)

    def steps(self, rows: list[dict[str, float]]) -> None:
        """Log steps, one row of `COLUMNS` each."""
        _append(self.workspace / "log.csv", rows)
        for row in rows:
            for name, value in row.items():
                if name != "step" and value == value:  # terms that a step does not compute are NaN
                    self.board.add_scalar(f"train/{name}", value, row["step"])

    def rates(self, step: int, rates: dict[str, float]) -> None:
        """Log speed and memory."""
        for name, value in rates.items():
            self.board.add_scalar(f"run/{name}", value, step)

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """Log an evaluation of the held-out subjects."""
        _append(self.workspace / "scores.csv", [{"step": step, **scores}])
        for name, value in scores.items():
            self.board.add_scalar(f"held_out/{name}", value, step)

    def image(self, step: int, image: Float[Tensor, "3 H W"]) -> None:
        """Log a preview."""
        self.board.add_image("held_out/ground truth above prediction", image.clamp(0, 1).cpu(), step)

    def close(self) -> None:
        """Write what is buffered."""
        self.board.close()


def read_rows(path: Path) -> list[dict[str, float]]:
    """Rows of a log, with the columns of this version (`core.utils.aliases`).

    An incomplete last row, as a killed run leaves it, is left out.
    """
    with path.open(newline="") as file:
        complete = [row for row in csv.DictReader(file) if all(row.values())]
    return [
        {current_column(name): int(x) if name == "step" else float(x) for name, x in row.items()} for row in complete
    ]


def describe_scores(scores: dict[str, float], first: dict[str, float]) -> str:
    """Scores of the held-out subjects as text, with their gain over the first evaluation if there are two."""
    parts = []
    for name in ("novel_view", "novel_pose"):
        if name not in scores:
            continue
        parts.append(f"{name.replace('_', ' ')} {scores[name]:.2f} dB")
        if name in first and first is not scores:
            parts[-1] += f" ({scores[name] - first[name]:+.2f} since the start)"
    return ", ".join(parts)


def summarize_losses(workspace: Path) -> None:
    """Log the mean loss of the first and the last steps of a run."""
    losses = [row["loss"] for row in read_rows(workspace / "log.csv")]
    span = min(50, len(losses))
    first, last = sum(losses[:span]) / span, sum(losses[-span:]) / span
    logger.info("mean loss of the first %d steps %.4f, of the last %.4f (x %.2f)", span, first, last, last / first)


def _append(path: Path, rows: list[dict[str, float]]) -> None:
    """Append rows to a file. Columns that it lacks, because an earlier version wrote it, are NaN in its old rows."""
    header = []
    if path.exists():
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
    columns = [current_column(name) for name in header]
    added = [name for name in rows[0] if name not in columns]
    if columns == header and not added:
        size = path.stat().st_size
        try:
            with path.open("a", newline="") as file:
                csv.DictWriter(file, columns, restval=math.nan).writerows(rows)
        except OSError:
            os.truncate(path, size)  # a full disk must not leave part of a row
            raise
        return
    earlier = read_rows(path) if path.exists() else []
    with atomic_path(path) as temporary:
        _write(temporary, [*columns, *added], [*earlier, *rows])


def _write(path: Path, columns: list[str], rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval=math.nan)
        writer.writeheader()
        writer.writerows(rows)


def _truncate(path: Path, last_step: int) -> None:
    """Keep the rows up to a step. A new run (step 0) starts a new file."""
    if not path.exists():
        return
    rows = [row for row in read_rows(path) if row["step"] <= last_step] if last_step > 0 else []
    if not rows:
        path.unlink()
        return
    with atomic_path(path) as temporary:
        _write(temporary, list(rows[0]), rows)
