"""Choice of frames: sharp, well exposed, the whole body in view, and spread over directions and poses."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from core.capture.landmarks import TORSO, Landmarks, azimuth, cut_off
from core.capture.networks import RGB

LIMB_BONES = ((11, 13), (13, 15), (12, 14), (14, 16), (23, 25), (25, 27), (24, 26), (26, 28))
POSE_WEIGHT, TURN_WEIGHT, TIME_WEIGHT = 0.7, 1.0, 0.15


@dataclass(frozen=True)
class Assessment:
    """Measurements of one candidate image of the chosen person."""

    key: int
    time: float | None
    label: str
    landmarks: Landmarks | None
    """Landmarks in pixels of the candidate; None without a person."""
    sharpness: float = 0.0
    brightness: float = 0.0
    """Mean luminance of the person, 0..1."""
    cut: tuple[str, ...] = ()
    """Parts that lie outside of the image."""

    @property
    def azimuth(self) -> float | None:
        return None if self.landmarks is None else azimuth(self.landmarks)


@dataclass(frozen=True)
class Selection:
    """Chosen frames in order of time, and why others were left out."""

    chosen: tuple[Assessment, ...]
    left_out: tuple[tuple[str, str], ...]
    """Labels of frames that are not used, with the reasons."""


def assess(image: RGB, key: int, time: float | None, label: str, landmarks: Landmarks | None) -> Assessment:
    """Measure a candidate."""
    if landmarks is None:
        return Assessment(key, time, label, None)
    height, width = image.shape[:2]
    left, top, right, bottom = (round(float(x)) for x in landmarks.box)
    part = image[max(top, 0) : max(bottom, top + 8), max(left, 0) : max(right, left + 8)]
    if min(part.shape[:2], default=0) < 8:
        return Assessment(key, time, label, None)
    gray = part.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    # Energy of fine over that of coarser detail: independent of contrast and of what the clothes look like.
    fine = ndimage.laplace(gray)
    coarse = ndimage.gaussian_filter(gray, 1.0) - ndimage.gaussian_filter(gray, 3.0)
    sharpness = float(np.sqrt((fine**2).mean()) / (np.sqrt((coarse**2).mean()) + 1.0))
    return Assessment(
        *(key, time, label, landmarks),
        sharpness=sharpness,
        brightness=float(gray.mean() / 255),
        cut=tuple(cut_off(landmarks, width, height)),
    )


def select_frames(candidates: list[Assessment], count: int) -> Selection:
    """Choose up to `count` frames.

    The first is the best one that faces the camera; each further one is that with the largest product of quality and
    distance (turn of the body, pose, time) to those chosen before.
    """
    usable, left_out = _usable(candidates, count)
    if not usable:
        return Selection((), tuple(left_out))
    quality = _quality(usable)
    turns = np.array([a.azimuth if a.azimuth is not None else np.nan for a in usable])
    distances = _distances(usable, turns)
    facing = np.cos(np.nan_to_num(turns))
    chosen = [int(np.argmax(quality * (1.2 + facing)))]
    nearest = distances[chosen[0]].copy()
    while len(chosen) < min(count, len(usable)):
        gain = (nearest + 1e-3) * quality
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        nearest = np.minimum(nearest, distances[best])
    chosen = _spread(chosen, distances, quality)
    return Selection(tuple(usable[i] for i in sorted(chosen)), tuple(left_out))


def _spread(
    chosen: list[int], distances: Float[np.ndarray, "n n"], quality: Float[np.ndarray, " n"], rounds: int = 3
) -> list[int]:
    """Move each choice but the first to where it is farthest from the others: greedy choices leave uneven gaps."""
    chosen = list(chosen)
    for _ in range(rounds):
        for position in range(1, len(chosen)):
            others = chosen[:position] + chosen[position + 1 :]
            gain = (distances[others].min(0) + 1e-3) * quality
            gain[others] = -1
            chosen[position] = int(gain.argmax())
    return chosen


def turn_coverage(azimuths: list[float]) -> float:
    """Degrees of a full turn that lie within 45 degrees of one of the directions."""
    if not azimuths:
        return 0.0
    directions = np.arange(360)
    angles = np.degrees(np.array(azimuths))
    difference = np.abs((directions[:, None] - angles + 180) % 360 - 180)
    return float((difference.min(1) <= 45).sum())


def _usable(candidates: list[Assessment], count: int) -> tuple[list[Assessment], list[tuple[str, str]]]:
    """Candidates with a person; those cut off are left out if enough others remain."""
    left_out = [(a.label, "no person") for a in candidates if a.landmarks is None]
    present = [a for a in candidates if a.landmarks is not None]
    # A person walking in or out: far smaller than elsewhere.
    if present:
        usual = np.median([a.landmarks.size for a in present])
        small = [a for a in present if a.landmarks.size < 0.45 * usual]
        if len(small) < 0.3 * len(present):
            left_out += [(a.label, "the person is much smaller than in the other frames") for a in small]
            present = [a for a in present if a.landmarks.size >= 0.45 * usual]
    whole = [a for a in present if not a.cut]
    # A missing hand costs little; a missing head or missing feet disturb the fit.
    nearly = [a for a in present if not {"the head", "the feet"} & set(a.cut)]
    needed = min(count, max(3, count // 2))
    for kept in (whole, nearly):
        if len(kept) >= needed or (kept and len(kept) >= 0.5 * len(present)):
            names = {id(a) for a in kept}
            left_out += [(a.label, f"{' and '.join(a.cut)} outside the image") for a in present if id(a) not in names]
            return kept, left_out
    return present, left_out


def _quality(usable: list[Assessment]) -> Float[np.ndarray, " n"]:
    sharpness = np.array([a.sharpness for a in usable])
    brightness = np.array([a.brightness for a in usable])
    seen = np.array([a.landmarks.visibility[list(TORSO) + [13, 14, 15, 16, 25, 26, 27, 28]].mean() for a in usable])
    cuts = np.array([len(a.cut) for a in usable])
    relative = sharpness / max(np.percentile(sharpness, 90), 1e-6)
    exposure = np.exp(-((np.log((brightness + 0.02) / (np.median(brightness) + 0.02)) / 0.7) ** 2))
    return relative.clip(0.05, 1) ** 1.5 * exposure.clip(0.1, 1) * (0.3 + 0.7 * seen) * 0.7**cuts


def _distances(usable: list[Assessment], turns: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    poses = np.stack([pose_features(a.landmarks, turn) for a, turn in zip(usable, turns)])
    pose = np.linalg.norm(poses[:, None] - poses[None], axis=-1).mean(-1) / 2
    turn = np.abs(np.sin(np.nan_to_num(turns[:, None] - turns[None]) / 2))
    times = np.array([a.time if a.time is not None else np.nan for a in usable])
    span = np.ptp(times) if len(times) > 1 and not np.isnan(times).any() else 0.0
    time = np.abs(times[:, None] - times[None]) / span if span > 0 else np.zeros_like(turn)
    return TURN_WEIGHT * turn + POSE_WEIGHT * pose + TIME_WEIGHT * time


def pose_features(landmarks: Landmarks, turn: float) -> Float[np.ndarray, "8 3"]:
    """Directions of the limbs' bones in axes that turn with the body; image directions without 3D landmarks."""
    if landmarks.world is None:
        points = np.c_[landmarks.points, np.zeros(len(landmarks.points))]
    else:
        cos, sin = np.cos(turn), np.sin(turn)
        points = landmarks.world @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    bones = np.array([points[b] - points[a] for a, b in LIMB_BONES])
    return bones / np.maximum(np.linalg.norm(bones, axis=-1, keepdims=True), 1e-9)
