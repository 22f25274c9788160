"""Choice of cameras and frames of a capture that may lack the wanted ones."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.capture import Capture
from core.data.fits import posed_vertices
from core.data.subject_frame import posed_pelvis
from core.data.verification import FaultyImages, read_fits
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import axis_angle_to_matrix

EYE_HEIGHT = 1.6
"""Height above the feet, in metres; input views come preferably from the ring of cameras nearest to it."""
RING_THICKNESS = 0.25
"""Maximum difference in height of the cameras of one ring, in metres; MVHumanNet's rings are 0.48 m apart."""
MIN_COMMON_FRAMES = 0.5
"""Minimum share of the frames that must remain common when a further camera is added."""


def common_frames(
    capture: Capture, cameras: list[str], faulty: Mapping[tuple[int, str], str] = MappingProxyType({})
) -> tuple[list[str], list[int]]:
    """Frames with a fit that all of the cameras have; a camera that lacks too many frames is left out.

    Args:
        capture: The subject.
        cameras: Candidates, in the order of preference.
        faulty: Faults by frame and camera, of images that do not count.
    Returns:
        The remaining cameras, in the order given, and the image ids.
    Raises:
        InputError: If there is no frame with a fit and an image.
    """
    frames_of = {name: set(capture.complete_frames([name])) for name in cameras}
    for frame, name in faulty:
        frames_of.get(name, set()).discard(frame)
    most = max((len(frames) for frames in frames_of.values()), default=0)
    if most == 0:
        if faulty:
            raise FaultyImages(capture.path, faulty)
        raise InputError(f"{capture.path}: {capture.nothing_usable()}")
    kept, common = [], None
    for name in cameras:
        shared = frames_of[name] if common is None else common & frames_of[name]
        if len(shared) >= MIN_COMMON_FRAMES * most:
            kept.append(name)
            common = shared
    return kept, sorted(common)


def choose_input_views(
    capture: Capture,
    wanted: tuple[str, ...],
    candidates: list[str],
    frame: int,
    body: BodyModel | None = None,
    allow_fewer: bool = False,
) -> list[str]:
    """Input views: the wanted ones, and in place of each missing one a camera chosen by its azimuth.

    The views are evenly spaced around the subject, in the order front, left, back, right of HGG's four. If none of the
    wanted ones exists, the front is the camera that the subject faces most directly. Cameras near eye height are
    preferred.

    Args:
        capture: The subject.
        wanted: Camera names, one per input view.
        candidates: Available cameras.
        frame: Image id of the frame whose fit gives the facing direction.
        body: Body of the fits; by default the one that the capture names.
        allow_fewer: Use all cameras where there are fewer than wanted.
    Raises:
        InputError: If there are fewer cameras than views wanted and that is not allowed, or none is wanted.
        FaultyImages: If the fit of the frame cannot be used.
    """
    if not wanted:
        raise InputError(f"{capture.path}: no input view is wanted; name at least one camera")
    if len(candidates) < (1 if allow_fewer else len(wanted)):
        raise InputError(
            f"{capture.path}: {len(wanted)} input views are wanted, but only {len(candidates)} cameras are usable "
            f"({', '.join(candidates) or 'none'}); choose fewer input views"
        )
    if set(wanted) <= set(candidates):
        return list(wanted)
    body = capture.body() if body is None else body
    params = read_fits(capture, [frame], candidates, body)[0]
    # Heights are relative to the feet: the pelvis of a squatting subject is low.
    origin = posed_pelvis(params, body)
    origin[2] = posed_vertices(params, body)[:, 2].max()
    centers = dict(zip(candidates, capture.cameras(candidates).centers - origin))
    angles = {name: float(_azimuth(center)) for name, center in centers.items()}

    step = 2 * torch.pi / len(wanted)
    present = [slot for slot, name in enumerate(wanted) if name in angles]
    if present:
        front = angles[wanted[present[0]]] - step * present[0]
    else:
        facing = axis_angle_to_matrix(params.global_orient)[:, 2]
        nearest = min(
            _eye_level(centers, candidates), key=lambda name: _angle_between(angles[name], float(_azimuth(facing)))
        )
        front = angles[nearest]

    chosen = {slot: wanted[slot] for slot in present}
    for slot in range(len(wanted)):
        free = [name for name in candidates if name not in chosen.values()]
        if slot not in chosen and free:
            near_eye = _eye_level(centers, free)
            chosen[slot] = min(near_eye, key=lambda name: _angle_between(angles[name], front + step * slot))
    return [chosen[slot] for slot in sorted(chosen)]


def spread_views(capture: Capture, candidates: list[str], count: int, first: str) -> list[str]:
    """`count` of the candidates, evenly spread in azimuth, starting from the camera `first`."""
    if count >= len(candidates):
        return list(candidates)
    start = _azimuth(capture.cameras([first]).centers[0])
    angles = (_azimuth(capture.cameras(candidates).centers) - start) % (2 * torch.pi)
    ordered = [candidates[i] for i in angles.argsort(stable=True).tolist()]
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def spread_frames(frames: list[int], count: int) -> list[int]:
    """`count` of the frames, evenly spaced from the first to the last."""
    if count >= len(frames):
        return list(frames)
    return [frames[round(i * (len(frames) - 1) / max(1, count - 1))] for i in range(count)]


def _azimuth(direction: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Azimuth of a direction in the raw world (z down), in radians, counter-clockwise seen from above (towards the
    subject's left)."""
    return -torch.atan2(direction[..., 1], direction[..., 0])


def _angle_between(a: float, b: float) -> float:
    """Angle between two azimuths, in [0, pi]."""
    return abs((a - b + torch.pi) % (2 * torch.pi) - torch.pi)


def _eye_level(centers: dict[str, Tensor], names: list[str]) -> list[str]:
    """Cameras of the ring nearest to eye height; centres are relative to the feet, in the raw world."""
    distance = {name: abs(-float(centers[name][2]) - EYE_HEIGHT) for name in names}
    return [name for name in names if distance[name] <= min(distance.values()) + RING_THICKNESS]
