"""Options of `scripts/results.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from core.inference.options import SHIPPED_CHECKPOINT
from core.inference.refinement import RefineOptions
from core.utils.device import DeviceName
from core.utils.ranges import Count, CountOrZero, ImageSize, Seed


@dataclass(frozen=True)
class ResultsOptions:
    """Measure the rows of docs/results.md. Rows with a record of the same settings are not measured again."""

    root: Path = Path("benchmark")
    """Folder of the benchmark: training captures in <root>/train, test people in <root>/test."""
    checkpoint: Path = SHIPPED_CHECKPOINT
    """Network of all rows but the ablations."""
    rows: tuple[str, ...] = ()
    """Names of rows or groups (model, inputs, bounds, ablations); by default all rows."""
    out: Path | None = None
    """Folder of the records, one JSON file per row (docs/results), with the page beside it (docs/results.md). With
    --curves, folder of the curves (docs/curves); with --images, folder of the images (docs/images)."""
    workspace: Path = Path("workspace/results")
    """Folder of checkpoints and logs of the ablations."""
    train: Path | None = None
    """Training captures, instead of <root>/crops/train (ready crops) or, if that does not exist, <root>/train."""
    image_size: ImageSize = 512
    """Side in pixels of the target images of --checkpoint."""
    preset: str = "demo-gpu"
    """Preset of the ablations, which are measured by images of its size."""
    ablation_steps: Count = 1500
    """Training steps of each ablation."""
    seed: Seed = 0
    num_workers: CountOrZero | None = None
    """Data workers of the trainings; by default those of the preset."""
    optimum_people: Count = 3
    """Number of test people of the row `optimum`."""
    optimum_steps: Count = 800
    """Steps of the row `optimum`, per person."""
    refine_steps: Count = RefineOptions().steps
    """Steps of the refined rows."""
    device: DeviceName = "auto"
    backend: str = "auto"
    """Rasterizer, as in infer.py."""
    commit: str | None = None
    """Commit to store in records, for copies of the files without a git repository."""
    again: bool = False
    """Measure rows again that have a current record."""
    list: bool = False
    """Only list the rows."""
    table_only: bool = False
    """Only write the page from the records."""
    readme: Path | None = None
    """Also write the short table into this file, between the lines `<!-- results -->` and `<!-- /results -->`."""
    curves: tuple[Path, ...] = ()
    """Only write learning curves (CSV and PNG) of the trainings in these workspaces."""
    images: Annotated[bool, tyro.conf.arg(aliases=["--pictures"])] = False
    """Only write images of the test people: a sheet and a turntable GIF. `--pictures` is the earlier name."""
