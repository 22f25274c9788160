"""Observations prepared for the energy: weights of landmarks, bone directions, fields of the masks."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smpl_renderer.fitting.bones import BoneTargets, bone_targets
from smpl_renderer.fitting.landmarks import LandmarkTable, landmark_table
from smpl_renderer.fitting.observations import Observations
from smpl_renderer.fitting.silhouettes import SilhouetteTargets, silhouette_targets
from smpl_renderer.tensor_structure import TensorStructure

# Importance of landmarks: those of the face are many and move together, hips and hands are placed less exactly.
_STEM_WEIGHTS = {
    **dict.fromkeys(("eye_inner", "eye_outer", "mouth"), 0.1),
    **dict.fromkeys(("eye", "ear"), 0.3),
    **dict.fromkeys(("hip", "mid_hip", "heel", "big_toe", "small_toe"), 0.6),
    **dict.fromkeys(("pinky", "index", "thumb"), 0.3),
    "nose": 0.5,
}


@dataclass(frozen=True)
class Targets(TensorStructure):
    """Targets of F frames and C cameras. Missing ones have weight zero and finite values."""

    Ks: Float[Tensor, "C 3 3"]
    viewmats: Float[Tensor, "C 4 4"]
    landmarks: Float[Tensor, "F C L 2"]
    landmark_weights: Float[Tensor, "F C L"]
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


def prepare_targets(observations: Observations) -> Targets:
    """Check observations and prepare what the energy compares bodies with.

    Raises:
        ValueError: If shapes do not match, or if there is nothing to fit to.
    """
    frames, cameras = observations.num_frames, observations.num_cameras
    table = landmark_table(observations.layout).to(observations.Ks.device)
    landmarks, weights = _landmarks(observations, table, frames, cameras)
    bones = None
    if observations.world_landmarks is not None:
        if observations.world_landmarks.shape[:3] != weights.shape:
            raise ValueError(
                f"world_landmarks must be [F, C, L, 3] = {[*weights.shape, 3]}, "
                f"got {[*observations.world_landmarks.shape]}"
            )
        bones = bone_targets(table.names, observations.world_landmarks, observations.visibility)
    silhouettes, seen = None, (weights > 0).any(-1)
    if observations.silhouettes is not None:
        if observations.silhouettes.present.shape != (frames, cameras):
            raise ValueError(
                f"silhouettes must be of F = {frames} frames and C = {cameras} cameras, "
                f"got {[*observations.silhouettes.present.shape]}"
            )
        silhouettes = silhouette_targets(observations.silhouettes)
        seen = seen | silhouettes.present
    if not seen.any():
        raise ValueError("no frame has a landmark or a mask of the person")
    return Targets(observations.Ks, observations.viewmats, landmarks, weights, table, bones, silhouettes, seen)


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
    stems = [name.removeprefix("left_").removeprefix("right_") for name in table.names]
    importance = observations.Ks.new_tensor([_STEM_WEIGHTS.get(stem, 1.0) for stem in stems])
    # Hidden landmarks are guesses, and worse than their visibility suggests.
    return landmarks, finite * observations.visibility.clamp(0, 1).square() * importance
