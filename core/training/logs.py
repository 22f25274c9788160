"""What a run writes about itself: `log.csv` (a row per step), `scores.csv` (a row per evaluation) and TensorBoard."""

import csv
import logging
import math
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from core.training.step import TERMS
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

COLUMNS = ("step", "lr", *TERMS, "grad_norm")


class RunLog:
    """Files of the main process. Rows beyond the step that a run resumes from are dropped: they are made again."""

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
                if name != "step" and value == value:  # a term that a step does not have is NaN
                    self.board.add_scalar(f"train/{name}", value, row["step"])

    def rates(self, step: int, rates: dict[str, float]) -> None:
        """Log speed and memory."""
        for name, value in rates.items():
            self.board.add_scalar(f"run/{name}", value, step)

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """Log an evaluation of held-out persons."""
        _append(self.workspace / "scores.csv", [{"step": step, **scores}])
        for name, value in scores.items():
            self.board.add_scalar(f"held_out/{name}", value, step)

    def image(self, step: int, image: Float[Tensor, "3 H W"]) -> None:
        self.board.add_image("held_out/ground truth above prediction", image.clamp(0, 1).cpu(), step)

    def close(self) -> None:
        self.board.close()


def read_rows(path: Path) -> list[dict[str, float]]:
    """A CSV file of numbers with steps, as rows, without a last one that a killed run has not written to its end."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        whole = [row for row in rows if all(row.values())]
        return [{name: int(x) if name == "step" else float(x) for name, x in row.items()} for row in whole]


def _append(path: Path, rows: list[dict[str, float]]) -> None:
    """Add rows to a file. A column that it lacks, as an earlier version wrote it, is NaN in its old rows."""
    columns = []
    if path.exists():
        with path.open(newline="") as file:
            columns = next(csv.reader(file), [])
    added = [name for name in rows[0] if name not in columns]
    if not added:
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns, restval=math.nan).writerows(rows)
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
    """Keep the rows up to a step; a fresh run (step 0) begins a new file."""
    if not path.exists():
        return
    rows = [row for row in read_rows(path) if row["step"] <= last_step] if last_step > 0 else []
    if not rows:
        path.unlink()
        return
    with atomic_path(path) as temporary:
        _write(temporary, list(rows[0]), rows)
