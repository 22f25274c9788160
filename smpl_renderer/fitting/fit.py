"""Fit bodies to what cameras saw of one person."""

from collections.abc import Callable

from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting.observations import Observations
from smpl_renderer.fitting.options import FitOptions
from smpl_renderer.fitting.result import FitResult
from smpl_renderer.types import BodyParams

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the steps done, the steps in all, and the current value of each energy term."""


def fit_bodies(
    observations: Observations,
    body: BodyModel,
    options: FitOptions = FitOptions(),
    on_step: OnStep | None = None,
    initial: BodyParams | None = None,
) -> FitResult:
    """Fit one shape and scale, and a pose per frame."""
    raise NotImplementedError
