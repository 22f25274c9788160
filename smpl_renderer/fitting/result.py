"""Results of a fit."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from smpl_renderer.tensor_structure import TensorStructure
from smpl_renderer.types import BodyParams


@dataclass(frozen=True)
class FrameQuality:
    """Agreement of the fitted body with one frame."""

    mask_iou: float | None
    """Intersection over union of the body's silhouette and the mask, mean over cameras; None without masks."""
    landmark_error: float | None
    """Mean distance of projected landmarks, weighted by visibility, relative to the person's height in the image."""
    usable: bool
    """False: the frame should be left out of a capture."""
    warnings: tuple[str, ...] = ()
    """Findings, as sentences."""


@dataclass(frozen=True)
class FitResult(TensorStructure):
    """Bodies of F frames in the world of the observations, with one shape and one scale."""

    params: BodyParams
    """Fitted bodies, with batch axis F."""
    up: Float[Tensor, "F 3"]
    """Unit vector against gravity, in the world."""
    floor: Float[Tensor, " F"]
    """Height of the ground along `up`, in metres."""
    quality: tuple[FrameQuality, ...]
    warnings: tuple[str, ...]
    """Findings about the whole fit, as sentences."""
