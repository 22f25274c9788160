"""Positions of the landmarks of MediaPipe, COCO and OpenPose on a body with SMPL's joints.

A landmark is a joint with an offset that turns with it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.tensor_structure import TensorStructure

MEDIAPIPE = (
    *("nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer"),
    *("left_ear", "right_ear", "left_mouth", "right_mouth", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index"),
    *("left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    *("left_heel", "right_heel", "left_big_toe", "right_big_toe"),
)
"""MediaPipe's pose landmarks; its foot index is called big toe here."""
COCO = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
BODY25 = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye"),
    *("left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe"),
    *("right_small_toe", "right_heel"),
)
LAYOUTS = {"mediapipe": MEDIAPIPE, "coco": COCO, "body25": BODY25}


@dataclass(frozen=True)
class _Place:
    """A landmark of the left side or the middle: a joint and an offset from it in metres, in the rest pose."""

    joint: str
    offset: tuple[float, float, float]


# Offsets of MediaPipe's landmarks: the ones that reproject best onto its detections in images of 52 synthetic people
# whose bodies are known (1022 detections per landmark, visibility over 0.9; median error 0.009 to 0.02 m).
_PLACES = {
    "nose": _Place("head", (0.0, 0.020, 0.106)),
    "eye_inner": _Place("head", (0.014, 0.051, 0.085)),
    "eye": _Place("head", (0.024, 0.051, 0.080)),
    "eye_outer": _Place("head", (0.035, 0.051, 0.074)),
    "ear": _Place("head", (0.052, 0.037, 0.028)),
    "mouth": _Place("head", (0.018, -0.012, 0.090)),
    "neck": _Place("neck", (0.0, 0.0, 0.0)),
    "shoulder": _Place("shoulder", (-0.019, 0.010, -0.001)),
    "elbow": _Place("elbow", (-0.013, 0.001, 0.014)),
    "wrist": _Place("wrist", (0.004, -0.002, 0.001)),
    "pinky": _Place("hand", (-0.022, -0.010, -0.015)),
    "index": _Place("hand", (-0.018, -0.020, 0.009)),
    "thumb": _Place("hand", (-0.041, -0.030, 0.018)),
    "mid_hip": _Place("pelvis", (0.0, -0.055, 0.025)),
    "hip": _Place("hip", (-0.015, 0.0, 0.025)),
    "knee": _Place("knee", (-0.007, -0.009, 0.002)),
    "ankle": _Place("ankle", (0.0, 0.018, 0.003)),
    "heel": _Place("ankle", (-0.005, -0.049, -0.038)),
    "big_toe": _Place("foot", (-0.021, -0.009, 0.038)),
    "small_toe": _Place("foot", (0.040, -0.009, 0.030)),
}


@dataclass(frozen=True)
class LandmarkTable(TensorStructure):
    """Landmarks of one layout: the joint that carries each, and the offset from it."""

    names: tuple[str, ...]
    joints: Int[Tensor, " L"]
    offsets: Float[Tensor, "L 3"]
    """Offset of each landmark from its joint in the rest pose, in metres at scale 1."""

    def from_joints(self, num_joints: int) -> Float[Tensor, "4J L"]:
        """Matrix from the joints' transforms [3, 4 J], each the orientation and then the position, to the landmarks."""
        matrix = self.offsets.new_zeros(num_joints, 4, len(self.joints))
        places = torch.arange(len(self.joints), device=self.offsets.device)
        matrix[self.joints, :3, places] = self.offsets
        matrix[self.joints, 3, places] = 1
        return matrix.flatten(0, 1)

    def index(self, *names: str) -> list[int]:
        """Positions of landmarks in the layout."""
        return [self.names.index(name) for name in names]


def landmark_table(layout: str) -> LandmarkTable:
    """Landmarks of a layout.

    Raises:
        ValueError: For an unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    names = LAYOUTS[layout]
    places = [_place_of(name) for name in names]
    joints, offsets = (torch.tensor(column) for column in zip(*places))
    return LandmarkTable(names, joints, offsets)


def _place_of(name: str) -> tuple[int, tuple[float, float, float]]:
    side, _, stem = name.partition("_")
    sided = side in ("left", "right")
    place = _PLACES[stem if sided else name]
    x, y, z = place.offset
    carrier = f"{side}_{place.joint}" if sided and f"{side}_{place.joint}" in JOINT_NAMES else place.joint
    return JOINT_NAMES.index(carrier), (-x if side == "right" else x, y, z)
