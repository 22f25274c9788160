"""What can be asked of `scripts/results.py`."""

from dataclasses import dataclass
from pathlib import Path

from core.inference.options import SHIPPED_CHECKPOINT
from core.inference.refinement import RefineOptions
from core.utils.device import DeviceName
from smpl_renderer.errors import InputError


@dataclass(frozen=True)
class ResultsOptions:
    """Measure the rows of docs/results.md. Rows that are there with the same settings are left as they are."""

    root: Path = Path("benchmark")
    """The benchmark: captures to train on in <root>/train, the test people in <root>/test."""
    checkpoint: Path = SHIPPED_CHECKPOINT
    """The trained network of all rows but the ablations."""
    rows: tuple[str, ...] = ()
    """Names of rows, or of groups of them (model, inputs, bounds, ablations); by default all."""
    out: Path | None = None
    """Where records go, one JSON file a row (docs/results), the table beside them (docs/results.md); with --curves,
    where these go (docs/curves); with --pictures, where those go (docs/images)."""
    workspace: Path = Path("workspace/results")
    """Where the trainings of the ablations keep checkpoints and logs."""
    train: Path | None = None
    """Captures to train on, instead of <root>/crops/train (ready crops) or, without these, <root>/train."""
    image_size: int = 512
    """Pixels of the pictures by which --checkpoint is measured."""
    preset: str = "demo-gpu"
    """Options that the ablations start from; they are measured by pictures of its size."""
    ablation_steps: int = 1500
    """Of the training of each ablation."""
    seed: int = 0
    num_workers: int | None = None
    """Of the trainings; by default the preset's."""
    optimum_people: int = 3
    """How many of the test people are optimised one by one."""
    optimum_steps: int = 800
    refine_steps: int = RefineOptions().steps
    """Of the rows that are refined on their inputs."""
    device: DeviceName = "auto"
    backend: str = "auto"
    """Rasterizer, as of infer.py."""
    commit: str | None = None
    """What to note as the commit where there is no repository to ask, as in a copy of the files."""
    again: bool = False
    """Measure rows anew that are there."""
    list: bool = False
    """Only show which rows there are."""
    table_only: bool = False
    """Only write the table from the records."""
    readme: Path | None = None
    """Write the short table into this file, too, between the lines `<!-- results -->` and `<!-- /results -->`."""
    curves: tuple[Path, ...] = ()
    """Only write learning curves (CSV and PNG) of these trainings' workspaces."""
    pictures: bool = False
    """Only write pictures of the test people: a sheet and a turning GIF."""


def check_options(options: ResultsOptions) -> None:
    """Refuse counts of nothing before anything is read.

    Raises:
        InputError: If there are any.
    """
    for name in ("image_size", "ablation_steps", "optimum_people", "optimum_steps", "refine_steps"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
