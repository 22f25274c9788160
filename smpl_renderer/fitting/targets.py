"""Observations prepared for the energy: weights of landmarks, bone directions, fields of the masks."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smpl_renderer.fitting.bones import BoneTargets, bone_targets
from smpl_renderer.fitting.landmarks import LandmarkTable, landmark_table
from smpl_renderer.fitting.observations import Observations, Silhouettes
from smpl_renderer.fitting.silhouettes import SilhouetteTargets, silhouette_targets
from smpl_renderer.tensor_structure import TensorStructure

# Standard deviation in metres, and importance, of MediaPipe's landmarks; measured like the offsets in `landmarks.py`.
# Those of the face and of a hand are several and err together, so that each counts less.
_ACCURACY = {
    "nose": (0.015, 0.5),
    "eye_inner": (0.014, 0.2),
    "eye": (0.014, 0.2),
    "eye_outer": (0.014, 0.2),
    "ear": (0.012, 0.4),
    "mouth": (0.015, 0.2),
    "neck": (0.015, 1.0),
    "shoulder": (0.017, 1.0),
    "elbow": (0.014, 1.0),
    "wrist": (0.011, 1.0),
    "pinky": (0.011, 0.3),
    "index": (0.011, 0.3),
    "thumb": (0.011, 0.3),
    "mid_hip": (0.020, 1.0),
    "hip": (0.024, 1.0),
    "knee": (0.020, 1.0),
    "ankle": (0.013, 1.0),
    "heel": (0.017, 0.7),
    "big_toe": (0.014, 0.7),
    "small_toe": (0.017, 0.7),
}
MIN_COVERAGE = 0.66
"""Least extent of the landmarks relative to the mask's, along the longer side of the mask."""


@dataclass(frozen=True)
class Targets(TensorStructure):
    """Targets of F frames and C cameras. Missing ones have weight zero and finite values."""

    Ks: Float[Tensor, "C 3 3"]
    viewmats: Float[Tensor, "C 4 4"]
    landmarks: Float[Tensor, "F C L 2"]
    landmark_weights: Float[Tensor, "F C L"]
    landmark_sigmas: Float[Tensor, " L"]
    """Standard deviations in metres at the person."""
    table: LandmarkTable
    bones: BoneTargets | None
    silhouettes: SilhouetteTargets | None
    seen: Bool[Tensor, "F C"]
    """True where a camera has landmarks or a mask of the person."""

    @property
    def num_frames(self) -> int:
        return self.landmarks.shape[0]

    def frames(self, index: Tensor) -> "Targets":
        """Some of the frames, which may repeat."""
        bones, silhouettes = self.bones, self.silhouettes
        if bones is not None:
            picked = {name: getattr(bones, name)[index] for name in ("directions", "whitening", "weights")}
            bones = replace(bones, **picked)
        return replace(
            self,
            landmarks=self.landmarks[index],
            landmark_weights=self.landmark_weights[index],
            bones=bones,
            silhouettes=silhouettes[index] if silhouettes is not None else None,
            seen=self.seen[index],
        )


def prepare_targets(observations: Observations, silhouettes: SilhouetteTargets | None = None) -> Targets:
    """Check observations and prepare what the energy compares bodies with.

    Args:
        silhouettes: Those of the same masks, prepared before.
    Raises:
        ValueError: If shapes do not match, or if there is nothing to fit to.
    """
    frames, cameras = observations.num_frames, observations.num_cameras
    table = landmark_table(observations.layout).to(observations.Ks.device)
    landmarks, weights = _landmarks(observations, table, frames, cameras)
    trusted = agree_with_masks(landmarks, weights, observations.silhouettes)
    weights = weights * trusted[..., None]
    bones = None
    if observations.world_landmarks is not None:
        if observations.world_landmarks.shape[:3] != weights.shape:
            raise ValueError(
                f"world_landmarks must be [F, C, L, 3] = {[*weights.shape, 3]}, "
                f"got {[*observations.world_landmarks.shape]}"
            )
        visibility = observations.visibility * trusted[..., None]
        bones = bone_targets(table.names, observations.world_landmarks, visibility)
    seen = (weights > 0).any(-1)
    if observations.silhouettes is not None:
        if observations.silhouettes.present.shape != (frames, cameras):
            raise ValueError(
                f"silhouettes must be of F = {frames} frames and C = {cameras} cameras, "
                f"got {[*observations.silhouettes.present.shape]}"
            )
        silhouettes = silhouettes or silhouette_targets(observations.silhouettes)
        seen = seen | silhouettes.present
    if not seen.any():
        raise ValueError("no frame has a landmark or a mask of the person")
    sigmas = observations.Ks.new_tensor([_ACCURACY[stem][0] for stem in _stems(table)])
    cameras = observations.Ks, observations.viewmats
    return Targets(*cameras, landmarks, weights, sigmas, table, bones, silhouettes, seen)


def _stems(table: LandmarkTable) -> list[str]:
    return [name.removeprefix("left_").removeprefix("right_") for name in table.names]


def agree_with_masks(
    landmarks: Float[Tensor, "F C L 2"], weights: Float[Tensor, "F C L"], silhouettes: Silhouettes | None
) -> Bool[Tensor, "F C"]:
    """False where the landmarks cover much less than the mask: the network saw a part of the person as the whole."""
    trusted = torch.ones_like(weights[..., 0], dtype=torch.bool)
    if silhouettes is None:
        return trusted
    counted = (weights > 0)[..., None]
    highest = torch.where(counted, landmarks, -torch.inf).amax(2)
    lowest = torch.where(counted, landmarks, torch.inf).amin(2)
    covered = silhouettes.alphas > 0.5
    step = silhouettes.windows[..., 2] / covered.shape[-1]
    extents = torch.stack([covered.any(-2).sum(-1) * step, covered.any(-1).sum(-1) * step], -1)
    larger = extents.argmax(-1, keepdim=True)
    share = (highest - lowest).gather(-1, larger) / extents.gather(-1, larger).clamp_min(1)
    return ~silhouettes.present | (share[..., 0] > MIN_COVERAGE) | ~counted.any((-1, -2))


def _landmarks(
    observations: Observations, table: LandmarkTable, frames: int, cameras: int
) -> tuple[Float[Tensor, "F C L 2"], Float[Tensor, "F C L"]]:
    shape = (frames, cameras, len(table.names))
    if observations.landmarks is None:
        return observations.Ks.new_zeros(*shape, 2), observations.Ks.new_zeros(shape)
    if observations.landmarks.shape != (*shape, 2):
        raise ValueError(f"landmarks must be [F, C, L, 2] = {[*shape, 2]}, got {[*observations.landmarks.shape]}")
    if observations.visibility is None or observations.visibility.shape != shape:
        raise ValueError(f"visibility must be [F, C, L] = {[*shape]}")
    finite = observations.landmarks.isfinite().all(-1)
    landmarks = torch.where(finite[..., None], observations.landmarks, 0.0)
    stems = _stems(table)
    importance = observations.Ks.new_tensor([_ACCURACY[stem][1] for stem in stems])
    # Hidden landmarks are guesses, and worse than their visibility suggests.
    return landmarks, finite * observations.visibility.clamp(0, 1).square() * importance
