"""Landmarks of one person in one image: what the pose networks or a keypoint file give, and what follows from them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LANDMARK_NAMES = (
    *("nose", "left eye inner", "left eye", "left eye outer", "right eye inner", "right eye", "right eye outer"),
    *("left ear", "right ear", "mouth left", "mouth right", "left shoulder", "right shoulder"),
    *("left elbow", "right elbow", "left wrist", "right wrist", "left pinky", "right pinky"),
    *("left index", "right index", "left thumb", "right thumb", "left hip", "right hip"),
    *("left knee", "right knee", "left ankle", "right ankle", "left heel", "right heel"),
    *("left foot index", "right foot index"),
)
"""BlazePose's 33 landmarks (Bazarevsky et al., 2020). Left and right are the person's own."""
NUM_LANDMARKS, NUM_HAND_LANDMARKS = len(LANDMARK_NAMES), 21
INDEX = {name: index for index, name in enumerate(LANDMARK_NAMES)}


def mirror_order(count: int = NUM_LANDMARKS) -> tuple[int, ...]:
    """Index of each landmark's counterpart on the other side of the body."""

    def other(name: str) -> str:
        exchanged = {"left": "right", "right": "left"}
        return " ".join(exchanged.get(word, word) for word in name.split())

    return tuple(INDEX[other(name)] for name in LANDMARK_NAMES[:count])


SHOULDERS, HIPS = (11, 12), (23, 24)
TORSO = (*SHOULDERS, *HIPS)
LIMBS = {
    "left arm": (13, 15),
    "right arm": (14, 16),
    "left leg": (25, 27),
    "right leg": (26, 28),
}
"""The two landmarks of each limb beyond the torso."""
EDGES = (
    *((11, 12), (23, 24), (11, 23), (12, 24), (11, 13), (13, 15), (12, 14), (14, 16)),
    *((23, 25), (25, 27), (24, 26), (26, 28), (27, 29), (29, 31), (27, 31), (28, 30), (30, 32), (28, 32)),
    *((0, 7), (0, 8)),
)
"""Pairs of landmarks that a drawing joins."""
SEEN = 0.5
"""Visibility from which a landmark counts as seen."""


@dataclass(frozen=True)
class Landmarks:
    """One person in one image. Pixels have their centres at +0.5; visibilities are in [0, 1], 0 for what is unknown."""

    points: Float[np.ndarray, "33 2"]
    visibility: Float[np.ndarray, "33"]
    world: Float[np.ndarray, "33 3"] | None = None
    """3D positions in metres, camera axes (x right, y down, z forward), origin between the hips; None: unknown."""
    hands: Float[np.ndarray, "2 21 2"] | None = None
    """Landmarks of the left and the right hand, in pixels."""
    hand_visibility: Float[np.ndarray, "2"] | None = None
    hands_world: Float[np.ndarray, "2 21 3"] | None = None
    """3D landmarks of the hands in metres, camera axes, any origin."""
    score: float = 1.0
    """Confidence that there is a person."""

    @property
    def seen(self) -> np.ndarray:
        """True for visible landmarks, [33] of bool."""
        return self.visibility >= SEEN

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the landmarks that are seen, or of all that are known if hardly any is."""
        used = self.seen if self.seen.sum() >= 4 else self.visibility > 0
        points = self.points[used] if used.any() else self.points
        return (*points.min(0), *points.max(0))

    @property
    def size(self) -> float:
        """Longer side of the box in pixels."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top, 1.0)

    @property
    def hip_center(self) -> np.ndarray:
        return self.points[list(HIPS)].mean(0)

    def shifted(self, scale: float, offset: tuple[float, float]) -> "Landmarks":
        """The same landmarks after the image was resized by `scale`, then moved by `offset` pixels."""
        hands = None if self.hands is None else self.hands * scale + np.asarray(offset)
        return replace_points(self, self.points * scale + np.asarray(offset), hands)


def replace_points(landmarks: Landmarks, points: np.ndarray, hands: np.ndarray | None) -> Landmarks:
    """Landmarks with other pixel positions."""
    return Landmarks(
        points=points,
        visibility=landmarks.visibility,
        world=landmarks.world,
        hands=hands,
        hand_visibility=landmarks.hand_visibility,
        hands_world=landmarks.hands_world,
        score=landmarks.score,
    )


def azimuth(landmarks: Landmarks) -> float | None:
    """Direction that the person faces, in radians: 0 towards the camera, pi / 2 towards the image's right.

    It follows from the shoulders and hips of the 3D landmarks; None without these.
    """
    if landmarks.world is None:
        return None
    right_to_left = sum(landmarks.world[a] - landmarks.world[b] for a, b in (SHOULDERS, HIPS))
    # A person who faces the camera has the left side at the image's right (+x).
    return float(np.arctan2(right_to_left[2], right_to_left[0]))


def cut_off(landmarks: Landmarks, width: int, height: int, margin: float = 0.004) -> list[str]:
    """Parts of the body that reach beyond the image: of "the head", "the feet", "the left arm", "the right arm"."""
    points = landmarks.points
    border = margin * max(width, height)
    outside = (points < border).any(1) | (points > np.array([width, height]) - border).any(1)
    known = landmarks.visibility > 0
    outside &= known
    parts = []
    head = [0, 7, 8]
    # The crown is about as far above the ears as the chin below: landmarks end at the eyes.
    neck = points[list(SHOULDERS)].mean(0)
    crown = points[head].mean(0) + 0.7 * (points[head].mean(0) - neck)
    if known[head].any() and (outside[head].any() or crown[1] < 0):
        parts.append("the head")
    feet = [27, 28, 29, 30, 31, 32]
    if not known[feet].any() or outside[feet].any():
        parts.append("the feet")
    for name, indices in (("the left arm", (13, 15, 17, 19)), ("the right arm", (14, 16, 18, 20))):
        if outside[list(indices)].any():
            parts.append(name)
    return parts
