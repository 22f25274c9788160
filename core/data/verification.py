"""Checks of a capture against itself: its calibration as a whole, and each image against the fit of its frame.

Results are kept in `Capture.findings`, so that nothing is checked twice.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.data.capture import Capture
from core.data.crops import read_alpha
from core.data.fits import UnusableFit
from core.data.silhouette_check import Agreement, median_agreement, silhouette_agreements
from core.data.up_axis import RAW_UP, observed_up, raw_from_world, rotated_axis
from core.data.view_check import posed_joints, skeleton_points, view_faults
from core.types.cameras import Cameras
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

MIN_COVER, MIN_OVERLAP = 0.75, 0.4
"""Median agreement of fits and masks below which calibration or fits are wrong. Sound synthetic captures have 0.99 and,
in wide clothes, 0.6; with the scale of the other rig 0.6 or 0.4."""
MIN_RELATIVE_COVER = 0.8
"""Share of the median below which one camera was moved: by some 7 cm, or 2 degrees."""
SWAPPED_MARGIN = 0.1
"""Overlap by which a mask meets the body better as another camera shows it, if the two are swapped: 0.25 to 0.8 in a
rig of six cameras, where sound captures have -0.3."""
MAX_BAD_FITS = 16
"""Fits that are tried, in a capture in which many cannot be used."""
CHECK_HEIGHT = 256
"""Height in pixels to which whole masks are reduced for the check of single images."""


def verify(capture: Capture, body: BodyModel | None = None) -> list[str]:
    """Check the calibration of a capture (`check_calibration`), and leave out cameras that were moved after it.

    In these the projected body does not meet the masks, while it does in others. Cameras are left out, too, whose
    masks hold a second person, say, in most of up to three frames.

    Returns:
        The cameras that are left out, which are logged.
    Raises:
        InputError: As `check_calibration`.
    """
    body = capture.body() if body is None else body
    best = check_calibration(capture, body)
    covered, _ = median_agreement(list(best.values()))
    swapped = _swapped(best)
    for name in swapped:
        logger.warning(
            "%s: camera %s is left out: its mask meets the fit better in camera %s (overlap %.2f, in its own %.2f); "
            "was it moved, or its name exchanged%s?",
            *(capture.path, name, best[name].other, best[name].other_overlap, best[name].overlap),
            capture.camera_note(name),
        )
    moved = [name for name in _moved(best) if name not in swapped]
    for name in moved:
        logger.warning(
            "%s: camera %s is left out: its mask covers %.0f%% of the projected body, others %.0f%%; was it moved%s?",
            *(capture.path, name, 100 * best[name].covered, 100 * covered, capture.camera_note(name)),
        )
    capture.leave_out(moved + swapped)
    faulty = _faulty_cameras(capture, body)
    capture.leave_out(faulty)
    capture.findings.is_verified = True
    return sorted(moved + swapped + faulty)


def check_calibration(capture: Capture, body: BodyModel | None = None) -> dict[str, Agreement]:
    """Check the up axis of a capture, and that the projected body meets the masks of most cameras.

    One frame is used, and two more if that leaves a doubt, because a fit or a mask may be bad too.

    Returns:
        Agreement of the projected body and the masks by camera.
    Raises:
        InputError: If there is no fit, the up axis is wrong, or the body meets the masks of hardly any camera.
    """
    body = capture.body() if body is None else body
    _leave_out_empty(capture)
    frames = _sample_frames(capture, body)
    _check_up(capture, frames, body)
    best = _best_agreements(capture, frames, body)
    if not _meets(best):
        best = _try_factors(capture, frames, body, best)
    if not _meets(best):
        covered, overlap = median_agreement(list(best.values()))
        if fault := _common_fault(capture, frames[0], body):
            raise InputError(
                f"{capture.path}: in most cameras, the image of frame {frames[0]:04d} cannot be used: {fault}; correct "
                "the masks"
            )
        raise InputError(
            f"{capture.path}: the fits do not meet the masks ({covered:.0%} of the projected body is covered, overlap "
            f"{overlap:.2f}); check {capture.calibration_files}, the masks and the fits"
        )
    return best


def find_faults(
    capture: Capture, frames: Iterable[int], names: Iterable[str], body: BodyModel
) -> dict[tuple[int, str], str]:
    """Faults of the images of these frames and cameras: masks that are empty, hold others, or miss the fit.

    Each mask is read once; new faults are logged. Frames that a camera lacks are skipped.
    """
    frames, names = list(frames), list(names)
    if capture.ready is None and not capture.is_checked:
        for frame in frames:
            _check_frame(capture, frame, names, body)
    found = {(frame, name): capture.findings.faults.get((frame, name)) for frame in frames for name in names}
    return {key: fault for key, fault in found.items() if fault is not None}


class FaultyImages(InputError):
    """Images that cannot be used, because their masks do not fit.

    Attributes:
        faults: Their faults by frame and camera.
        frames: Their frames.
    """

    def __init__(self, path: Path, faults: Mapping[tuple[int, str], str]):
        self.faults = dict(faults)
        self.frames = {frame for frame, _ in faults}
        (frame, camera), fault = next(iter(faults.items()))
        more = f" (and {len(faults) - 1} more images)" if len(faults) > 1 else ""
        super().__init__(
            f"{path}: frame {frame:04d} of camera {camera} cannot be used: {fault}{more}; use other frames or "
            "cameras, or correct the masks"
        )


def check_crops(
    capture: Capture,
    body: BodyModel,
    fits: BodyParams,
    frame_ids: list[int],
    view_names: list[str],
    cameras: Cameras,
    alphas: UInt8[np.ndarray, "F C 1 S S"],
) -> None:
    """Check cropped images that were read anyway, and refuse those with a fault.

    Args:
        capture: The subject.
        body: Body of the fits.
        fits: Batch axis F, in the raw world.
        frame_ids: The F frames.
        view_names: The C cameras.
        cameras: [F, C] of the crops, in the raw world.
        alphas: Their masks.
    Raises:
        FaultyImages: If an image has a fault.
    """
    keys = [(frame, view) for frame in frame_ids for view in view_names]
    known = capture.findings.faults
    todo = [i for i, key in enumerate(keys) if key not in known]
    if todo:
        rows = sorted({i // len(view_names) for i in todo})
        points = skeleton_points(fits[rows], body)[[rows.index(i // len(view_names)) for i in todo]]
        flat = Cameras(cameras.viewmats.flatten(0, 1), cameras.Ks.flatten(0, 1), cameras.width, cameras.height)
        masks = torch.from_numpy(alphas).flatten(0, 2)
        masks = masks if len(todo) == len(keys) else masks[todo]
        note_faults(capture, [keys[i] for i in todo], view_faults(points, flat[todo], masks))
    if faults := {key: fault for key in keys if (fault := known[key]) is not None}:
        raise FaultyImages(capture.path, faults)


def note_faults(capture: Capture, keys: list[tuple[int, str]], faults: list[str | None]) -> None:
    """Keep the results of checks by frame and camera; faults are logged."""
    for key, fault in zip(keys, faults, strict=True):
        if fault is not None and capture.findings.faults.get(key) is None:
            logger.warning("%s: frame %04d of camera %s is left out: %s", capture.path, *key, fault)
        capture.findings.faults[key] = fault


def read_fits(capture: Capture, frames: list[int], names: list[str], body: BodyModel) -> BodyParams:
    """Fits [F] of a capture's frames, in the raw world.

    Raises:
        FaultyImages: If the numbers of a fit cannot be used; that is a fault of its frame in all of the cameras.
        InputError: If a fit cannot be read.
    """
    fits = []
    for frame in frames:
        try:
            fits.append(capture.fit(frame, body))
        except UnusableFit as error:
            faults = dict.fromkeys([(frame, name) for name in names], str(error))
            if not faults.keys() & capture.findings.faults.keys():
                logger.warning("%s: frame %04d is left out: %s", capture.path, frame, error)
            capture.findings.faults.update(faults)
            raise FaultyImages(capture.path, faults) from error
    return BodyParams.stack(fits)


def usable_fits(capture: Capture, frames: Iterable[int], body: BodyModel) -> list[int]:
    """The frames without those whose fit has numbers that cannot be used, which are logged.

    Raises:
        InputError: If a fit cannot be read.
    """
    usable = []
    for frame in frames:
        try:
            read_fits(capture, [frame], capture.camera_names, body)
            usable.append(frame)
        except FaultyImages:
            continue  # logged
    return usable


def _check_frame(capture: Capture, frame: int, names: list[str], body: BodyModel) -> None:
    known = capture.findings.faults
    todo = [name for name in names if (frame, name) not in known and frame in capture.frames_of(name)]
    if not todo or frame not in capture.fits:
        return
    try:
        points = skeleton_points(read_fits(capture, [frame], todo, body), body)
    except FaultyImages:
        return  # noted
    for name in todo:
        note_faults(capture, [(frame, name)], [_view_fault(capture, frame, name, points)])


def _view_fault(capture: Capture, frame: int, name: str, points: Float[Tensor, "1 P 3"]) -> str | None:
    """Fault of one image, of which the mask is read."""
    camera = capture.camera(name)
    size = max(1, round(CHECK_HEIGHT * camera.width / camera.height)), CHECK_HEIGHT
    alpha = torch.from_numpy(np.array(read_alpha(capture.files(name, frame), camera, size)))
    return view_faults(points, capture.cameras([name]).resized(*size), alpha[None])[0]


def _leave_out_empty(capture: Capture) -> None:
    """Leave out cameras without a frame that has both image and mask.

    Raises:
        InputError: If no camera or no frame is left.
    """
    empty = [name for name in capture.camera_names if not capture.frames_of(name)]
    if len(empty) == len(capture.camera_names) or not set(capture.frame_ids) & set(capture.fits):
        raise InputError(f"{capture.path}: {capture.nothing_usable()}")
    if empty:
        logger.warning(
            "%s: the cameras %s have no frame with both image and mask; left out", capture.path, ", ".join(empty)
        )
    capture.leave_out(empty)


def _sample_frames(capture: Capture, body: BodyModel) -> list[int]:
    """Up to three frames with a sound fit, spread over the capture, the middle one first."""
    with_fit = [frame for frame in capture.frame_ids if frame in capture.fits]
    wanted = [with_fit[int(share * len(with_fit))] for share in (0.5, 0.25, 0.75)]
    frames: list[int] = []
    unusable: UnusableFit | None = None
    tried = 0
    for frame in dict.fromkeys([*wanted, *with_fit]):
        if len(frames) == len(set(wanted)) or tried == MAX_BAD_FITS:
            break
        try:
            capture.fit(frame, body)
            frames.append(frame)
        except UnusableFit as error:
            unusable, tried = error, tried + 1
    if not frames:
        raise unusable
    return frames


def _faulty_cameras(capture: Capture, body: BodyModel) -> list[str]:
    """Cameras with a fault in most of up to three frames; the later ones are read only if the first has one."""
    frames = _sample_frames(capture, body)
    faulty = []
    for name in sorted({name for _, name in find_faults(capture, frames[:1], capture.camera_names, body)}):
        there = [frame for frame in frames if frame in capture.frames_of(name)]
        if 2 * len(find_faults(capture, there, [name], body)) > len(there) > 1:
            fault = capture.findings.faults[there[0], name]
            logger.warning("%s: camera %s is left out: in most frames %s", capture.path, name, fault)
            faulty.append(name)
    return faulty if len(faulty) < len(capture.camera_names) else []


def _common_fault(capture: Capture, frame: int, body: BodyModel) -> str | None:
    """A fault of the masks that most cameras share in a frame, and that is not one of the calibration."""
    names = [name for name in capture.camera_names if frame in capture.frames_of(name)]
    points = skeleton_points(capture.fit(frame, body)[None], body)
    faults = [_view_fault(capture, frame, name, points) for name in names]
    telling = [fault for fault in faults if fault is not None and "does not meet" not in fault and "mask" in fault]
    return telling[0] if 2 * len(telling) > len(names) else None


def _check_up(capture: Capture, frames: list[int], body: BodyModel) -> None:
    """Turn a world whose up axis is not that of its layout; refuse it if its file states the axis."""
    joints = posed_joints(BodyParams.stack([capture.fit(frame, body) for frame in frames]), body)
    observed = observed_up(RAW_UP, joints, capture.cameras(capture.camera_names).viewmats)
    if observed is None:
        return
    T_world_raw = raw_from_world(capture.up).T
    fits, cameras = (rotated_axis(axis, T_world_raw) for axis in observed)
    source = "its file" if capture.is_up_stated else "its layout"
    stated = f"{capture.path}: the up axis is {capture.up} by {source}"
    if capture.is_up_stated or fits != cameras or capture.up != RAW_UP:
        raise InputError(
            f"{stated}, but the fits stand along {fits} (head over feet) and the upper edges of the images along "
            f"{cameras}; correct the axis, the cameras or the fits"
        )
    logger.warning("%s, but fits and cameras stand along %s; the world is turned", stated, fits)
    capture.findings.up = fits
    capture.forget()


def _best_agreements(capture: Capture, frames: list[int], body: BodyModel) -> dict[str, Agreement]:
    """Best agreement of each camera over frames; later frames are used only if the earlier ones leave a doubt."""
    best: dict[str, Agreement] = {}
    for frame in frames:
        names = [name for name in capture.camera_names if frame in capture.frames_of(name)]
        cameras, files = {n: capture.camera(n) for n in names}, {n: capture.files(n, frame) for n in names}
        for name, agreement in silhouette_agreements(capture.fit(frame, body), body, cameras, files).items():
            best[name] = max(agreement, best.get(name, agreement))
        if _meets(best) and not _moved(best) and not _swapped(best):
            break
    return best


def _try_factors(
    capture: Capture, frames: list[int], body: BodyModel, best: dict[str, Agreement]
) -> dict[str, Agreement]:
    """Agreements with another factor between calibrated size and files, if one meets the masks; else `best`."""
    for factor in capture.factors():
        capture.findings.factor = factor
        capture.forget()
        if _meets(_best_agreements(capture, frames[:1], body)):
            logger.warning("%s: by the masks, K is for images %d times as large as the files", capture.path, factor)
            return _best_agreements(capture, frames, body)
    capture.findings.factor = None
    capture.forget()
    return best


def _meets(agreements: Mapping[str, Agreement]) -> bool:
    covered, overlap = median_agreement(list(agreements.values()))
    return covered >= MIN_COVER and overlap >= MIN_OVERLAP


def _swapped(agreements: Mapping[str, Agreement]) -> list[str]:
    """Cameras whose mask belongs to another one."""
    return [name for name, found in agreements.items() if found.other_overlap > found.overlap + SWAPPED_MARGIN]


def _moved(agreements: Mapping[str, Agreement]) -> list[str]:
    covered, _ = median_agreement(list(agreements.values()))
    return [name for name, agreement in agreements.items() if agreement.covered < MIN_RELATIVE_COVER * covered]
