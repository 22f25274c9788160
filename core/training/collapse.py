"""Has a network come to draw nothing, or one flat colour? Two numbers of each step tell it, and a watch over log lines.

Both are minima from which the losses lead out slowly or not at all: where all is transparent, no colour has a gradient.
An untrained network covers the person (initial opacity 0.88); only without a second look does it begin in one colour.
"""

import logging
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.options import TrainOptions
from core.training.run_state import find_run_states

logger = logging.getLogger(__name__)

SAMPLED = 64
"""Pixels of an axis that are looked at, at least (of larger pictures): numbers about a whole person need no more."""
LEAST_SPREAD = 1e-3
"""Added to both spreads: photographs of one plain colour ask for no contrast."""
WINDOW = 10
"""Steps that are judged together, at least; a longer log interval is judged as a whole."""
RECOVERY = 2.0
"""Times the limit: noise about the limit makes no episodes of its own."""


@dataclass(frozen=True)
class Sign:
    """A number of the log that is too low in a collapsed run."""

    column: str
    limit: float
    windows: int
    """How many in a row have to be below the limit."""
    warm_up: int
    """Steps in which a number that has not been above the limit yet may be below it."""
    meaning: str


SIGNS = (
    Sign(
        "coverage", 0.05, 1, 0, "the renderings cover {:.1%} of the persons' masks, so next to nothing is drawn there"
    ),
    Sign("contrast", 0.05, 3, 200, "colours vary {:.1%} as much as the photographs', so all is of one colour"),
)


@torch.no_grad()
def coverage_and_contrast(
    colors: Float[Tensor, "B F C 3 H W"],
    alphas: Float[Tensor, "B F C 1 H W"],
    photographs: Float[Tensor, "B F C 3 H W"],
    masks: Float[Tensor, "B F C 1 H W"],
) -> dict[str, Float[Tensor, ""]]:
    """How much is drawn where the persons are. Pictures are on white; both numbers are means over persons.

    `coverage` is the mean rendered alpha inside the masks (1 for a person without any). `contrast` is the standard
    deviation of what is drawn there, relative to that of the photographs, and at most 1.
    """
    stride = max(1, min(colors.shape[-2:]) // SAMPLED)
    colors, alphas, photographs, masks = (x[..., ::stride, ::stride] for x in (colors, alphas, photographs, masks))
    pixels = masks.flatten(1).sum(1)
    covered = (masks * alphas).flatten(1).sum(1) / pixels.clamp(min=1)
    contrast = (_spread(colors, alphas, masks) + LEAST_SPREAD) / (_spread(photographs, masks, masks) + LEAST_SPREAD)
    return {"coverage": covered.where(pixels > 0, 1).mean(), "contrast": contrast.clamp(max=1).mean()}


def _spread(
    colors: Float[Tensor, "B F C 3 H W"], alphas: Float[Tensor, "B F C 1 H W"], masks: Float[Tensor, "B F C 1 H W"]
) -> Float[Tensor, " B"]:
    """Standard deviation of a person's colours from the one colour that fits them best.

    The white behind is taken out: soft edges, too, would be a contrast. Less than one whole pixel counts as nothing.
    """
    pictures = (1, 2, 4, 5)
    drawn = colors - (1 - alphas)  # color * alpha
    weight = (masks * alphas.square()).sum(pictures, keepdim=True).clamp(min=1)
    best = (masks * alphas * drawn).sum(pictures, keepdim=True) / weight  # [B, 1, 1, 3, 1, 1]
    variances = (masks * (drawn - alphas * best).square()).sum(pictures, keepdim=True) / weight
    return variances.flatten(1).mean(1).sqrt()


class CollapseIndicator:
    """Reads the rows of the log; warns once when a run has collapsed, and says when it has recovered.

    Training goes on. A resumed run has a new watch, which warns anew.
    """

    def __init__(self, options: TrainOptions):
        self.options = options
        self._rows: list[dict[str, float]] = []  # of the window that is not full yet
        self._low: dict[str, list[int]] = {sign.column: [] for sign in SIGNS}  # first steps of the last windows, if low
        self._was_well: set[str] = set()
        self._since: int | None = None  # the step since which the run is collapsed

    def look(self, rows: list[dict[str, float]]) -> None:
        """Take the next log line's rows into account."""
        self._rows += rows
        if len(self._rows) < WINDOW:
            return
        first, last = self._rows[0]["step"], self._rows[-1]["step"]
        means = {sign.column: _mean([row[sign.column] for row in self._rows]) for sign in SIGNS}
        self._rows = []
        for sign in SIGNS:
            self._judge(sign, means[sign.column], first, last)
        if self._since is not None and all(means[sign.column] > RECOVERY * sign.limit for sign in SIGNS):
            logger.info("the run, collapsed since step %d, has recovered by step %d", self._since, last)
            self._since = None

    def _judge(self, sign: Sign, mean: float, first: int, last: int) -> None:
        low = self._low[sign.column]
        if math.isnan(mean):  # only skipped steps, of which others tell
            return
        if mean >= sign.limit:
            self._was_well.add(sign.column)
            low.clear()
            return
        low.append(first)
        is_early = last <= sign.warm_up and sign.column not in self._was_well
        if len(low) >= sign.windows and not is_early and self._since is None:
            self._since = low[0]
            seen = sign.meaning.format(mean)
            logger.warning("the run has collapsed: since step %d, %s. %s", self._since, seen, self._remedy())

    def _remedy(self) -> str:
        options = self.options
        steps = [f"lower --lr (now {options.lr:g})", f"raise --warmup (now {options.warmup:g})"]
        if options.stage != "graph":
            steps.append(f"lower --loss.surface-distance (now {options.loss.surface_distance:g})")
        good = [path for path in find_run_states(options.workspace) if path.name < f"state_{self._since:08d}.pt"]
        if good:
            steps.append(f"with these, go on from before it: --resume {good[-1]} (copy it, --keep will remove it)")
        else:
            steps.append("with these, begin anew: no run state from before it is left")
        steps.append("check the masks of the data")
        return f"Training goes on, since it may recover; if it does not: {'; '.join(steps)}"


def _mean(values: list[float]) -> float:
    """Of the finite ones; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
