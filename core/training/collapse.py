"""Detect collapsed renderings from per-step coverage and contrast.

A network can collapse to drawing nothing, or to drawing one flat colour. The losses lead out of both minima slowly or
not at all: where everything is transparent, no colour has a gradient. An untrained network covers the subject (initial
opacity 0.88); it begins in one colour only without image colour sampling.
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

SAMPLED_SIZE = 64
"""Larger images are subsampled, to no fewer pixels per axis than this: statistics of a whole body need no more."""
SPREAD_OFFSET = 1e-3
"""Added to both spreads of the contrast, so that targets of one plain colour require no contrast."""
WINDOW = 10
"""Minimum number of steps per window; a longer log interval is one window."""
RECOVERY = 2.0
"""Factor above an indicator's threshold at which a run counts as recovered, so that noise does not end an episode."""


@dataclass(frozen=True)
class CollapseIndicator:
    """A log column that is too low in a collapsed run."""

    column: str
    threshold: float
    windows: int
    """Consecutive windows that must be below the threshold."""
    warm_up: int
    """Step up to which low values are accepted, as long as no window has been above the threshold."""
    description: str
    """Text of the warning; formatted with the mean of the last window."""


INDICATORS = (
    CollapseIndicator(
        "coverage", 0.05, 1, 0, "the renderings cover {:.1%} of the subjects' masks, so next to nothing is drawn there"
    ),
    CollapseIndicator(
        "contrast", 0.05, 3, 200, "colours vary {:.1%} as much as in the target images, so all is of one colour"
    ),
)


@torch.no_grad()
def coverage_and_contrast(
    colors: Float[Tensor, "B F C 3 H W"],
    alphas: Float[Tensor, "B F C 1 H W"],
    target_colors: Float[Tensor, "B F C 3 H W"],
    target_alphas: Float[Tensor, "B F C 1 H W"],
) -> dict[str, Float[Tensor, ""]]:
    """Coverage and contrast of renderings inside the masks; images are on white, both values are means over subjects.

    `coverage` is the mean rendered alpha inside the masks (1 for a subject whose masks are empty). `contrast` is the
    standard deviation of the rendered colours there, relative to that of the targets, and at most 1.
    """
    stride = max(1, min(colors.shape[-2:]) // SAMPLED_SIZE)
    colors, alphas, target_colors, masks = (
        x[..., ::stride, ::stride] for x in (colors, alphas, target_colors, target_alphas)
    )
    pixels = masks.flatten(1).sum(1)
    covered = (masks * alphas).flatten(1).sum(1) / pixels.clamp(min=1)
    contrast = (_spread(colors, alphas, masks) + SPREAD_OFFSET) / (_spread(target_colors, masks, masks) + SPREAD_OFFSET)
    return {"coverage": covered.where(pixels > 0, 1).mean(), "contrast": contrast.clamp(max=1).mean()}


def _spread(
    colors: Float[Tensor, "B F C 3 H W"], alphas: Float[Tensor, "B F C 1 H W"], masks: Float[Tensor, "B F C 1 H W"]
) -> Float[Tensor, " B"]:
    """Standard deviation of each subject's colours from their best-fitting single colour.

    The white background is subtracted first, because soft edges on it would count as contrast. A weight of less than
    one whole pixel counts as empty.
    """
    pixel_axes = (1, 2, 4, 5)
    premultiplied = colors - (1 - alphas)  # color * alpha
    weight = (masks * alphas.square()).sum(pixel_axes, keepdim=True).clamp(min=1)
    best = (masks * alphas * premultiplied).sum(pixel_axes, keepdim=True) / weight  # [B, 1, 1, 3, 1, 1]
    variances = (masks * (premultiplied - alphas * best).square()).sum(pixel_axes, keepdim=True) / weight
    return variances.flatten(1).mean(1).sqrt()


class CollapseMonitor:
    """Warn once when a run has collapsed, and report its recovery. Training continues in either case.

    The monitor has no state that outlives the process: a resumed run warns again.
    """

    def __init__(self, options: TrainOptions):
        self.options = options
        self._rows: list[dict[str, float]] = []  # of the incomplete window
        # First steps of the latest consecutive windows that were below the threshold.
        self._low_windows: dict[str, list[int]] = {indicator.column: [] for indicator in INDICATORS}
        self._was_above: set[str] = set()
        self._collapsed_since: int | None = None

    def update(self, rows: list[dict[str, float]]) -> None:
        """Take the rows of the next log interval into account."""
        self._rows += rows
        if len(self._rows) < WINDOW:
            return
        first, last = self._rows[0]["step"], self._rows[-1]["step"]
        means = {name: _finite_mean([row[name] for row in self._rows]) for name in self._low_windows}
        self._rows = []
        for indicator in INDICATORS:
            self._update_indicator(indicator, means[indicator.column], first, last)
        if self._collapsed_since is not None and all(
            means[indicator.column] > RECOVERY * indicator.threshold for indicator in INDICATORS
        ):
            logger.info("the run, collapsed since step %d, has recovered by step %d", self._collapsed_since, last)
            self._collapsed_since = None

    def _update_indicator(self, indicator: CollapseIndicator, mean: float, first: int, last: int) -> None:
        low_windows = self._low_windows[indicator.column]
        if math.isnan(mean):  # a window of skipped steps only, which are reported elsewhere
            return
        if mean >= indicator.threshold:
            self._was_above.add(indicator.column)
            low_windows.clear()
            return
        low_windows.append(first)
        is_early = last <= indicator.warm_up and indicator.column not in self._was_above
        if len(low_windows) >= indicator.windows and not is_early and self._collapsed_since is None:
            self._collapsed_since = low_windows[0]
            reason = indicator.description.format(mean)
            logger.warning(
                "the run has collapsed: since step %d, %s. %s", self._collapsed_since, reason, self._remedy()
            )

    def _remedy(self) -> str:
        options = self.options
        steps = [f"lower --lr (now {options.lr:g})", f"raise --warmup (now {options.warmup:g})"]
        if options.stage != "graph":
            steps.append(f"lower --loss.surface-distance (now {options.loss.surface_distance:g})")
        collapsed_state = f"state_{self._collapsed_since:08d}.pt"
        earlier = [path for path in find_run_states(options.workspace) if path.name < collapsed_state]
        if earlier:
            steps.append(f"then resume from before it: --resume {earlier[-1]} (copy it first, --keep will remove it)")
        else:
            steps.append("then start anew: no run state from before it is left")
        steps.append("check the masks of the data")
        return f"Training continues, because the run may recover; if it does not: {'; '.join(steps)}"


def _finite_mean(values: list[float]) -> float:
    """Mean of the finite values; NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
