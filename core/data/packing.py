"""Packed copies of captures: the same subjects, with images as training reads them.

There are two kinds. Smaller images: K stays stated for the calibrated size, and the loader scales it to the files. Most
of the time of the original goes into decoding 1224 x 1024 pixels of which a quarter are kept. Ready crops
(`ready_crops.py`): nothing is decoded, but they serve one crop and size only. A folder may hold both, and crops of
several sizes. Copies are captures described by `capture.json`, whatever layout the originals have, with distortion
undone and the raw world (z down) as theirs.

Only frames with a fit are packed, and of a human list only its views and poses. Moved cameras, and images whose masks
do not fit, are left out, so that copies need no checks (`data.verify` may be off). The copy of a subject is complete or
absent. An existing one is kept, also if its original has changed since.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.data.capture import Capture
from core.data.capture_copies import camera_records, capture_record, check_cameras, write_fit
from core.data.capture_json import FrameRecord, write_capture_json
from core.data.crops import FILTER, Window, read_image, read_window
from core.data.human_list import HumanEntry
from core.data.input_files import read_json
from core.data.mvhumannet import BODY_FILE, IMAGE_FOLDERS
from core.data.readers import open_capture
from core.data.ready_crops import CROPS_FOLDER, crops_path, has_ready_crops, write_ready_crops
from core.data.verification import find_faults, usable_fits
from core.data.verification import verify as verify_capture
from core.utils.processes import in_processes
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

SETTINGS_NAME = "packing.json"
"""File beside the packed captures with the settings that they were made with; for ready crops it is
`packing_<crop>_<size>.json`."""


def pack_dataset(
    subjects: Sequence[HumanEntry],
    out: Path,
    height: int = 512,
    quality: int = 95,
    every: int = 1,
    body: Path | None = None,
    verify: bool = True,
    workers: int = 0,
) -> None:
    """Write packed copies of subjects with smaller images, and `human.json` last. Existing copies are kept.

    A capture that cannot be used does not stop the others: it is logged, `human.json` leaves it out, and the error at
    the end names all such captures. Packing again tries them again.

    Args:
        subjects: Subjects, with the views and poses to pack.
        out: Folder of the copies.
        height: Height of the images in pixels; smaller ones of the original keep their size.
        quality: Quality of the JPEG files, whose colours keep the full resolution.
        every: Pack every n-th of the frames.
        body: A body model file; by default it is found by the capture's fingerprint.
        verify: Leave out moved cameras, and images whose masks do not fit.
        workers: Processes, each packing one subject at a time; 0 uses this one.
    Raises:
        InputError: After the others are packed, if captures could not be used. Before anything is written, if captures
            would be written onto themselves or each other, or beside copies that were made with other settings.
    """
    _check_place(subjects, out)
    _keep_settings(subjects, out, SETTINGS_NAME, height=height, quality=quality, every=every)
    todo = [entry for entry in subjects if not _has_images(out / entry.subject)]
    pack = partial(pack_subject, out=out, height=height, quality=quality, every=every, body=body, verify=verify)
    _pack_all(pack, subjects, todo, out, workers)


def pack_crops(
    subjects: Sequence[HumanEntry],
    out: Path,
    crop: Literal["center", "person"],
    size: int,
    every: int = 1,
    body: Path | None = None,
    verify: bool = True,
    workers: int = 0,
) -> None:
    """Write ready crops of subjects as `pack_dataset` writes smaller images; both may share a folder.

    Args:
        subjects: Subjects, with the views and poses to pack.
        out: Folder of the copies.
        crop: As in `DataOptions`.
        size: Side of the images in pixels: `DataOptions.image_size`.
        every: Pack every n-th of the frames.
        body: A body model file; by default it is found by the capture's fingerprint.
        verify: As in `pack_dataset`.
        workers: Processes, each packing one subject at a time; 0 uses this one.
    Raises:
        InputError: As `pack_dataset`.
    """
    _check_place(subjects, out)
    _keep_settings(subjects, out, f"packing_{crop}_{size}.json", every=every)
    todo = [entry for entry in subjects if not has_ready_crops(out / entry.subject, crop, size)]
    pack = partial(pack_subject_crops, out=out, crop=crop, size=size, every=every, body=body, verify=verify)
    _pack_all(pack, subjects, todo, out, workers)


def _check_place(subjects: Sequence[HumanEntry], out: Path) -> None:
    for entry in subjects:
        if (out / entry.subject).resolve() == entry.path.resolve():
            raise InputError(f"--out {out}: holds the originals; name another folder")
    names = [entry.subject for entry in subjects]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{', '.join(sorted(twice))}: in more than one folder; rename one, or pack them apart")
    if len({(entry.views, entry.poses) for entry in subjects}) > 1:
        raise InputError("the folders have human lists with different views or poses; pack them apart")


def _pack_all(
    pack: Callable[[HumanEntry], None],
    subjects: Sequence[HumanEntry],
    todo: Sequence[HumanEntry],
    out: Path,
    workers: int,
) -> None:
    """Pack the subjects in `todo`, and list all packed subjects."""
    broken = set()
    with tqdm(total=len(todo), desc="pack", unit="subject") as bar, logging_redirect_tqdm():
        for entry, error in _attempts(pack, todo, workers):
            bar.update()
            if error is not None:
                logger.warning("not packed: %s: %s", entry.path, error)
                broken.add(entry.subject)
    _write_list([entry for entry in subjects if entry.subject not in broken], out)
    if broken:
        raise InputError(
            f"{len(broken)} of {len(subjects)} captures could not be packed, each for the reason above: "
            f"{', '.join(sorted(broken))}; correct them and pack again, or train on the others, which human.json lists"
        )


def _attempts(
    pack: Callable[[HumanEntry], None], todo: Sequence[HumanEntry], workers: int
) -> Iterator[tuple[HumanEntry, InputError | None]]:
    """Pack each subject; yield it with the error if it could not be used. Other errors end the run."""
    if workers == 0:
        for entry in todo:
            yield entry, _error_of(partial(pack, entry))
        return
    with closing(in_processes(pack, todo, workers, torch.set_num_threads, (1,))) as outcomes:
        for entry, outcome in outcomes:
            yield entry, _error_of(outcome.result)


def _error_of(call: Callable[[], None]) -> InputError | None:
    try:
        call()
    except InputError as error:
        return error
    return None


def _keep_settings(subjects: Sequence[HumanEntry], out: Path, name: str, **settings: object) -> None:
    """Write the settings of the copies in a folder, or refuse to add copies with other settings."""
    path = out / name
    views, poses = subjects[0].views, subjects[0].poses
    chosen = {"views": None if views is None else list(views), "poses": None if poses is None else list(poses)}
    records = {record: read_json(record) for record in sorted(out.glob("packing*.json"))}
    for record, earlier in records.items():
        # Copies of the other kind and crops of other sizes only share `human.json`.
        for key, value in (settings | chosen if record == path else chosen).items():
            if earlier.get(key) != value:
                raise InputError(
                    f"--out {out}: holds copies that were made with {key} {_short(earlier.get(key))}, not "
                    f"{_short(value)}; use the same again, or name another folder"
                )
    if path in records:
        return
    is_ours = name != SETTINGS_NAME and records  # crops may be added to copies
    if not is_ours and (there := [entry.subject for entry in subjects if (out / entry.subject).exists()]):
        raise InputError(f"--out {out}: holds {there[0]}, but no {name} with its settings; name another folder")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings | chosen, indent=1), encoding="utf-8")


def _short(value: object) -> str:
    """A setting; of a long list its first items and its length."""
    if not isinstance(value, list):
        return "all" if value is None else str(value)
    return ", ".join(map(str, value[:3])) + (f" ... ({len(value)})" if len(value) > 3 else "")


def _write_list(subjects: Sequence[HumanEntry], out: Path) -> None:
    """Write `human.json`, which lists the subjects for training."""
    if not subjects:
        return
    record: dict[str, list[str]] = {"human_id": [entry.subject for entry in subjects]}
    if subjects[0].views is not None:
        record["view_id_list"] = list(subjects[0].views)
    if subjects[0].poses is not None:
        record["pose_id_list"] = [f"{pose:04d}" for pose in subjects[0].poses]
    with atomic_path(out / "human.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def pack_subject(
    entry: HumanEntry,
    out: Path,
    height: int,
    quality: int,
    every: int = 1,
    body: Path | None = None,
    verify: bool = True,
) -> None:
    """Write the packed copy of one subject, complete or not at all; see `pack_dataset`."""
    capture, model = _open(entry, body, verify)
    names, frames = _chosen(capture, entry, every, model)
    cameras = camera_records(capture, names, is_undistorted=True)
    crops = out / entry.subject / CROPS_FOLDER  # packed when the images could not be
    if crops.is_dir():
        check_cameras(capture, cameras, crops.parent)
    with atomic_path(out / entry.subject) as folder:
        records = []
        for frame in frames:
            images, masks = {}, {}
            for name in _sound(capture, frame, names, model, verify):
                if _pack_image(capture, name, frame, folder, height, quality):
                    images[name], masks[name] = _image_path(name, frame), _mask_path(name, frame)
            if not images:
                continue
            write_fit(capture, frame, model, folder / _fit_path(frame))
            records.append(FrameRecord(frame, images, masks, _fit_path(frame)))
        _check_any(records, entry)
        write_capture_json(folder, capture_record(capture, cameras, records, is_checked=verify))
        _copy_body_file(entry, folder)
        if crops.is_dir():
            crops.rename(folder / CROPS_FOLDER)


def pack_subject_crops(
    entry: HumanEntry, out: Path, crop: str, size: int, every: int = 1, body: Path | None = None, verify: bool = True
) -> None:
    """Write the ready crops of one subject, complete or not at all; see `pack_crops`."""
    capture, model = _open(entry, body, verify)
    names, frames = _chosen(capture, entry, every, model)
    cameras = camera_records(capture, names, is_undistorted=True)

    def images() -> Iterator[tuple[Window, np.ndarray, np.ndarray] | None]:
        packed = 0
        for frame in frames:
            sound = _sound(capture, frame, names, model, verify)
            for name, window in zip(names, capture.windows(frame, names, crop, model)):
                item = _crop(capture, name, frame, window, size) if name in sound else None
                packed += item is not None
                yield item
        _check_any(packed, entry)

    def write(folder: Path) -> None:
        fits = BodyParams.stack([capture.fit(frame, model) for frame in frames])
        write_ready_crops(crops_path(folder, crop, size), crop, size, names, frames, fits, model, images())

    if (out / entry.subject).is_dir():  # of crops of another size, or of smaller images
        check_cameras(capture, cameras, out / entry.subject)
        write(out / entry.subject)
        return
    with atomic_path(out / entry.subject) as folder:
        write(folder)
        write_capture_json(folder, capture_record(capture, cameras, []))
        _copy_body_file(entry, folder)


def _check_any(packed: object, entry: HumanEntry) -> None:
    if not packed:
        raise InputError(f"{entry.path}: no image can be used, for the reasons logged above; correct the images")


def _open(entry: HumanEntry, body: Path | None, verify: bool) -> tuple[Capture, BodyModel]:
    capture = open_capture(entry.path)
    model = capture.body(body)
    if verify:
        verify_capture(capture, model)
    return capture, model


def _chosen(capture: Capture, entry: HumanEntry, every: int, body: BodyModel) -> tuple[list[str], list[int]]:
    """Cameras and frames to pack. Frames whose fit cannot be used are left out, with a warning.

    Raises:
        InputError: If there is no frame.
    """
    names = [name for name in capture.camera_names if entry.views is None or name in entry.views]
    names = names or capture.camera_names  # a list for the other rig
    frames = [frame for frame in capture.frame_ids if frame in capture.fits]
    if not frames:
        raise InputError(f"{entry.path}: {capture.nothing_usable()}")
    frames = [frame for frame in frames if entry.poses is None or frame in entry.poses]
    if not frames:
        raise InputError(f"{entry.path}: no frame that the human list names has both an image and a fit")
    chosen = usable_fits(capture, frames[::every], body)
    if not chosen:
        raise InputError(f"{entry.path}: no fit can be used, for the reasons logged above; correct the fits")
    return names, chosen


def _sound(capture: Capture, frame: int, names: list[str], body: BodyModel, verify: bool) -> list[str]:
    """Cameras that have the frame, without those whose files are broken or whose masks do not fit, which are logged."""
    there = [name for name in names if frame in capture.frames_of(name)]
    if not verify:
        return there
    capture.fit(frame, body)  # an error of it is none of a mask
    sound = []
    for name in there:
        try:
            if not find_faults(capture, [frame], [name], body):
                sound.append(name)
        except InputError as error:
            logger.warning("left out: %s", error)
    return sound


def _crop(
    capture: Capture, camera: str, frame: int, window: Window, size: int
) -> tuple[Window, np.ndarray, np.ndarray] | None:
    """A window of an image; None, with a warning, if the image cannot be read."""
    try:
        return window, *read_window(capture.files(camera, frame), capture.camera(camera), window, size)
    except InputError as error:
        logger.warning("left out: %s", error)
        return None


def _pack_image(capture: Capture, camera: str, frame: int, folder: Path, height: int, quality: int) -> bool:
    """Write an image and its mask at the packed size; False, with a warning, if they cannot be read."""
    try:
        image, mask = read_image(capture.files(camera, frame), capture.camera(camera))
    except InputError as error:
        logger.warning("left out: %s", error)
        return False
    image.putalpha(mask)
    if image.height > height:
        image = _reduced(image, (round(image.width * height / image.height), height))
    image_out, mask_out = folder / _image_path(camera, frame), folder / _mask_path(camera, frame)
    image_out.parent.mkdir(parents=True, exist_ok=True)
    mask_out.parent.mkdir(parents=True, exist_ok=True)
    image.convert("RGB").save(image_out, quality=quality, subsampling=0)
    image.getchannel("A").save(mask_out, compress_level=1)
    return True


def _reduced(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An RGBA image at a smaller size. PIL weights colours by alpha, so that no background reaches the subject."""
    factor = image.height // size[1]
    if image.size == (factor * size[0], factor * size[1]):
        return image.reduce(factor)  # as the loader's JPEG decoder halves images
    return image.resize(size, FILTER)


def _has_images(copy: Path) -> bool:
    """True if a copy of this or an older version has images."""
    return any((copy / name).is_dir() for name in IMAGE_FOLDERS)


def _image_path(camera: str, frame: int) -> str:
    return f"images/{camera}/{frame:04d}.jpg"


def _mask_path(camera: str, frame: int) -> str:
    return f"masks/{camera}/{frame:04d}.png"


def _fit_path(frame: int) -> str:
    return f"fits/{frame:04d}.json"


def _copy_body_file(entry: HumanEntry, folder: Path) -> None:
    """Copy `body.json`, in which synthetic captures state how they were made."""
    if (entry.path / BODY_FILE).exists():
        shutil.copyfile(entry.path / BODY_FILE, folder / BODY_FILE)
