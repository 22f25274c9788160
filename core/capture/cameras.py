"""Cameras of a capture: calibrations brought to the stored images, focal lengths, still or moving, metric scale."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from core.capture.image_source import ImageSource
from core.capture.importers import ImportedCamera, ImportedRig
from core.capture.landmarks import Landmarks
from core.capture.sources import InputFiles
from core.capture.stills import reduced_size
from core.data.lens import Lens
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

GUESS_VIDEO, GUESS_IMAGE = 0.85, 1.2
"""Focal lengths relative to the longer side, where nothing states one: a phone's video, an image from anywhere."""
LIMB_LENGTHS = {
    (11, 13): 0.153,
    (12, 14): 0.153,
    (13, 15): 0.138,
    (14, 16): 0.138,
    (23, 25): 0.225,
    (24, 26): 0.225,
    (25, 27): 0.257,
    (26, 28): 0.257,
}
"""Distances of landmarks relative to body height, of the stand-in's mean shape."""
USUAL_HEIGHT = 1.70


@dataclass(frozen=True)
class StoredCamera:
    """A camera for the images that the capture stores."""

    name: str
    K: Float[np.ndarray, "3 3"]
    width: int
    height: int
    T_cam_world: Float[np.ndarray, "4 4"]
    lens: Lens | None = None
    """Distortion of the source images; stored ones are undistorted."""


@dataclass(frozen=True)
class CameraSet:
    """All cameras of a capture."""

    cameras: tuple[StoredCamera, ...]
    """Cameras in the order of the sources."""
    calibrated: bool
    """True if their poses are known."""
    up: tuple[float, float, float] | None
    metric: bool
    notes: tuple[str, ...] = ()
    """Guesses, as sentences."""


def set_up_cameras(files: InputFiles, rig: ImportedRig | None, long_side: int, focal: float | None = None) -> CameraSet:
    """Cameras of the sources at the size of the stored images.

    Args:
        rig: A calibration, or None: then every camera is at the origin of its own frame.
        long_side: Maximum length of the longer side of the stored images, in pixels.
        focal: Focal length in pixels of the source images, which goes before what the files state.
    """
    if rig is not None:
        matched = match_cameras(rig, files)
        cameras = tuple(_stored(source, camera, long_side) for source, camera in zip(files.sources, matched))
        return CameraSet(cameras, calibrated=True, up=rig.up, metric=rig.metric, notes=(f"cameras: {rig.source}",))
    notes: list[str] = []
    cameras = tuple(_uncalibrated(source, long_side, focal, notes) for source in files.sources)
    return CameraSet(cameras, calibrated=False, up=None, metric=True, notes=tuple(dict.fromkeys(notes)))


def _uncalibrated(source: ImageSource, long_side: int, focal: float | None, notes: list[str]) -> StoredCamera:
    stated = focal or source.focal
    if focal:
        notes.append(f"focal length: {focal:.0f} pixels, as given")
    elif source.focal:
        notes.append(f"focal length: {source.focal:.0f} pixels, from the file's metadata")
    else:
        factor = GUESS_VIDEO if source.is_video else GUESS_IMAGE
        stated = factor * max(source.width, source.height)
        notes.append(
            f"focal length: a guess, {stated:.0f} pixels ({factor} x the longer side), as no file states it; "
            "a wrong one moves the person nearer or farther. Give --focal PIXELS if you know it"
        )
    width, height = reduced_size(source.width, source.height, long_side)
    f = stated * width / source.width
    K = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]])
    return StoredCamera(source.name, K, width, height, np.eye(4))


def match_cameras(rig: ImportedRig, files: InputFiles) -> list[ImportedCamera]:
    """The calibrated camera of each source: by name, else, if there are as many, in order of their names.

    Raises:
        InputError: If a source has no camera.
    """
    by_name = {_key(name): camera for name, camera in rig.cameras.items()}
    matched = []
    for source in files.sources:
        camera = by_name.get(_key(source.name))
        if camera is None and rig.per_image:
            camera = _camera_of_images(rig, source, files.one_frame)
        matched.append(camera)
    if all(camera is not None for camera in matched):
        return matched
    names = [source.name for source in files.sources]
    if len(rig.cameras) == len(files.sources) and not any(matched):
        logger.warning(
            "%s: its cameras %s are taken to be %s, in this order",
            *(rig.source, ", ".join(rig.cameras), ", ".join(names)),
        )
        return list(rig.cameras.values())
    missing = [name for name, camera in zip(names, matched) if camera is None]
    raise InputError(
        f"{rig.source}: has no camera for {', '.join(missing[:4])} (it has {', '.join(list(rig.cameras)[:6])}); "
        "name folders or videos like the cameras"
    )


def _key(name: str) -> str:
    """Key by which names of one camera are equal: cam01, Cam_1 and cam-001."""
    parts, digits = [], ""
    for character in name.lower() + " ":
        if character.isdigit():
            digits += character
            continue
        if digits:
            parts.append(str(int(digits)))
            digits = ""
        if character.isalnum():
            parts.append(character)
    return "".join(parts)


def _camera_of_images(rig: ImportedRig, source: ImageSource, one_frame: bool) -> ImportedCamera | None:
    """A calibration lists images: that of the source's one image, or the middle one of its folder."""
    if one_frame:
        matches = [camera for name, camera in rig.cameras.items() if _key(Path(name).name) == _key(source.name)]
    else:
        matches = [
            camera
            for name, camera in rig.cameras.items()
            if _key(source.name) in {_key(part) for part in Path(name).parts[:-1]}
        ]
    if not matches:
        return None
    centers = np.array([-c.T_cam_world[:3, :3].T @ c.T_cam_world[:3, 3] for c in matches])
    return matches[int(np.linalg.norm(centers - np.median(centers, 0), axis=1).argmin())]


def _stored(source: ImageSource, camera: ImportedCamera, long_side: int) -> StoredCamera:
    width, height = reduced_size(source.width, source.height, long_side)
    K = camera.K.copy()
    if camera.size is not None:
        K = _fitted(K, camera.size, (source.width, source.height), source.name)
    K[0] *= width / source.width
    K[1] *= height / source.height
    return StoredCamera(source.name, K, width, height, camera.T_cam_world, camera.lens)


def _fitted(K: np.ndarray, size: tuple[int, int], actual: tuple[int, int], name: str) -> np.ndarray:
    """K for images of another size than that of the calibration: scaled, or cropped by a codec's block at most."""
    if max(abs(size[0] - actual[0]), abs(size[1] - actual[1])) <= 16:
        return K
    scales = actual[0] / size[0], actual[1] / size[1]
    if abs(scales[0] / scales[1] - 1) > 0.02:
        raise InputError(
            f"camera {name}: calibrated for {size[0]} x {size[1]} pixels, its images have {actual[0]} x {actual[1]}; "
            "give images of the calibrated format (uncropped and not rotated)"
        )
    K = K.copy()
    K[0] *= scales[0]
    K[1] *= scales[1]
    return K


def triangulate(
    cameras: tuple[StoredCamera, ...], points: Float[np.ndarray, "C L 2"], weights: Float[np.ndarray, "C L"]
) -> tuple[Float[np.ndarray, "L 3"], Float[np.ndarray, "C L"]]:
    """3D points by weighted linear least squares, and their reprojection errors in pixels.

    Points with fewer than two weights above zero are NaN.
    """
    P = np.stack([camera.K @ camera.T_cam_world[:3] for camera in cameras])
    rows = points[..., None] * P[:, None, None, 2] - P[:, None, :2]  # [C, L, 2, 4]
    norms = np.linalg.norm(P[:, 2, :3], axis=1) * np.array([camera.K[0, 0] for camera in cameras])
    rows = rows * (weights / norms[:, None])[..., None, None]
    A = rows.transpose(1, 0, 2, 3).reshape(points.shape[1], -1, 4)
    A = np.nan_to_num(A)
    homogeneous = np.linalg.svd(A)[2][:, -1]
    X = homogeneous[:, :3] / homogeneous[:, 3:]
    X[(weights > 0).sum(0) < 2] = np.nan
    projected = np.einsum("cij,lj->cli", P, np.c_[X, np.ones(len(X))])
    errors = np.linalg.norm(projected[..., :2] / projected[..., 2:] - points, axis=-1)
    errors[:, :] = np.where(projected[..., 2] > 0, errors, np.inf)
    return X, errors


def body_height(cameras: tuple[StoredCamera, ...], frames: list[list[Landmarks | None]]) -> float | None:
    """Height of the person in the unit of the cameras, from the lengths of triangulated limbs; None if none is seen."""
    heights = []
    for row in frames:
        points = np.stack([np.zeros((33, 2)) if x is None else x.points for x in row])
        weights = np.stack([np.zeros(33) if x is None else np.where(x.visibility > 0.5, x.visibility, 0) for x in row])
        X, errors = triangulate(cameras, points, weights)
        sizes = np.array([1.0 if x is None else x.size for x in row])
        worst = np.where(weights > 0, errors / sizes[:, None], 0).max(0)
        for (a, b), share in LIMB_LENGTHS.items():
            if max(worst[a], worst[b]) < 0.05:
                heights.append(np.linalg.norm(X[a] - X[b]) / share)
    heights = [h for h in heights if np.isfinite(h)]
    return float(np.median(heights)) if len(heights) >= 4 else None


def disagreement(cameras: tuple[StoredCamera, ...], frames: list[list[Landmarks | None]]) -> float | None:
    """Reprojection error of triangulated landmarks, relative to the person's size: the median of the worst camera.

    None if no landmark is seen twice.
    """
    relative: list[list[np.ndarray]] = [[] for _ in cameras]
    for row in frames:
        points = np.stack([np.zeros((33, 2)) if x is None else x.points for x in row])
        weights = np.stack([np.zeros(33) if x is None else np.where(x.seen, x.visibility, 0) for x in row])
        X, errors = triangulate(cameras, points, weights)
        for c, landmarks in enumerate(row):
            if landmarks is not None:
                relative[c].append(errors[c][(weights[c] > 0) & np.isfinite(X).all(1)] / landmarks.size)
    values = [np.concatenate(errors) for errors in relative if errors]
    return max((float(np.median(v)) for v in values if len(v)), default=None)


def to_metres(
    cameras: CameraSet, frames: list[list[Landmarks | None]], height: float | None
) -> tuple[CameraSet, float, str | None]:
    """Cameras in metres, the factor applied, and a note.

    A calibration without a unit is scaled so that the person has the given or the usual height; one in metres is left
    as it is unless the person's height in it is absurd (millimetres, squares of a chessboard).
    """
    measured = body_height(cameras.cameras, frames)
    if measured is None:
        if cameras.metric:
            return cameras, 1.0, None
        raise InputError(
            "the calibration has no unit of length and the person's limbs could not be triangulated; "
            "check that images and cameras belong together"
        )
    wanted = height or USUAL_HEIGHT
    if cameras.metric and 0.6 < measured / wanted < 1.6:
        return cameras, 1.0, None
    factor = wanted / measured
    scaled = []
    for camera in cameras.cameras:
        T = camera.T_cam_world.copy()
        T[:3, 3] *= factor
        scaled.append(replace(camera, T_cam_world=T))
    source = "as given" if height else "the usual height; give --height METRES for your own"
    note = f"scale: the person is {wanted:.2f} m high ({source}), 1 unit of the calibration is {factor:.4g} m"
    return replace(cameras, cameras=tuple(scaled), metric=True), factor, note


def camera_moves(images: list[np.ndarray], people: list[Landmarks | None]) -> bool:
    """True if the background shifts between small images of equal size: a hand-held or moving camera.

    The shift is found by phase correlation outside of the person. It counts if it exceeds 1.5 % of the image and aligns
    the background clearly better than no shift.
    """
    if len(images) < 2:
        return False
    step = max(1, max(images[0].shape[:2]) // 160)
    planes = [image[::step, ::step].astype(np.float32).mean(-1) for image in images]
    backgrounds = [_background(plane, person, step) for plane, person in zip(planes, people)]
    moved = 0
    for plane, background in zip(planes[1:], backgrounds[1:]):
        common = background & backgrounds[0]
        if common.sum() < 0.1 * common.size:
            continue
        dy, dx = _shift(planes[0], plane, common)
        if np.hypot(dy, dx) <= 0.015 * max(plane.shape):
            continue
        moved_plane, moved_common = np.roll(plane, (dy, dx), (0, 1)), np.roll(background, (dy, dx), (0, 1))
        both = moved_common & backgrounds[0]
        aligned = np.abs(planes[0] - moved_plane)[both].mean() if both.any() else np.inf
        moved += aligned < 0.8 * np.abs(planes[0] - plane)[common].mean()
    return bool(moved > 0.34 * (len(images) - 1))


def _background(plane: np.ndarray, person: Landmarks | None, step: int) -> np.ndarray:
    keep = np.ones(plane.shape, bool)
    if person is not None:
        left, top, right, bottom = np.array(person.box) / step
        pad = 0.15 * person.size / step
        keep[max(0, int(top - pad)) : int(bottom + pad), max(0, int(left - pad)) : int(right + pad)] = False
    return keep


def _bounded_detail(plane: np.ndarray) -> np.ndarray:
    """Local contrast in -1..1: a time stamp in the image must not outweigh the room."""
    detail = plane - ndimage.gaussian_filter(plane, 6)
    return np.tanh(detail / (1.5 * np.median(np.abs(detail)) + 1e-3))


def _shift(a: np.ndarray, b: np.ndarray, keep: np.ndarray) -> tuple[int, int]:
    """Rows and columns by which b must be rolled to match a."""
    a, b = (_bounded_detail(x) * keep for x in (a, b))
    spectrum = np.fft.rfft2(a) * np.conj(np.fft.rfft2(b))
    correlation = np.fft.irfft2(spectrum / np.maximum(np.abs(spectrum), 1e-3), a.shape)
    y, x = (int(i) for i in np.unravel_index(correlation.argmax(), correlation.shape))
    return y - a.shape[0] if y > a.shape[0] // 2 else y, x - a.shape[1] if x > a.shape[1] // 2 else x
