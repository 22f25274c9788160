"""Packed copies of captures: the same people, with pictures as training takes them.

There are two kinds. Smaller pictures: the copy is a capture in MVHumanNet's layout; K stays stated for the calibrated
size, and the loader scales it to the files as ever. What takes time in the original is decoding 1224 x 1024 pixels of
which a quarter are kept. Ready crops (`ready_crops.py`): nothing is decoded any more, but they serve one crop and size
only. A folder may hold both, and crops of several sizes.

Only frames with a fit are packed, and of a human list only its views and poses; cameras that were moved are left out,
so that `data.verify` can be off. A person's copy is whole, or not there: one that is there already stays as it is, also
where its original has changed since, and is made anew once it is deleted.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.data.calibration import read_json
from core.data.capture import IMAGE_FOLDERS, MASK_FOLDERS, Capture
from core.data.crops import FILTER, Window, read_picture, read_window
from core.data.human_list import HumanEntry
from core.data.ready_crops import CROPS_FOLDER, crops_path, has_ready_crops, write_ready_crops
from core.utils.processes import end_with_parent
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

SETTINGS_NAME = "packing.json"
"""Beside the packed captures: how they were made. That of ready crops is `packing_<crop>_<size>.json`."""

CAMERA_FILES = ("camera_intrinsics.json", "camera_extrinsics.json", "camera_scale.pkl", "body.json")


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
    """Write packed copies of subjects with smaller pictures, and `human.json` last. Those that are there already stay.

    A capture that cannot be used does not keep the others from being packed: a warning says at once what is wrong with
    it, `human.json` leaves it out, and the error at the end names all such captures. Packing again tries them again.

    Args:
        subjects: With the views and poses to pack.
        out: Folder of the copies.
        height: Of the pictures, in pixels; those of the original that are smaller keep their size.
        quality: Of the JPEG files, whose colours keep the full resolution.
        every: Pack every n-th of the frames.
        body: A body model file; by default it is found by the capture's fingerprint.
        verify: Leave out cameras that were moved; synthetic captures have none.
        workers: Processes that pack one subject each; 0 uses this one.
    Raises:
        InputError: If captures could not be used, after the others are packed; or if they would be written onto
            themselves or each other, or beside copies that were made with other settings, before anything is.
    """
    _check_place(subjects, out)
    _keep_settings(subjects, out, SETTINGS_NAME, height=height, quality=quality, every=every)
    todo = [entry for entry in subjects if not (out / entry.subject / IMAGE_FOLDERS[0]).is_dir()]
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
    """Write ready crops of subjects, as `pack_dataset` writes smaller pictures; into the same folder, if wanted.

    Args:
        subjects: With the views and poses to pack.
        out: Folder of the copies.
        crop: As in `DataOptions`.
        size: Of the pictures, in pixels: `DataOptions.image_size`.
        every: Pack every n-th of the frames.
        body: A body model file; by default it is found by the capture's fingerprint.
        verify: As in `pack_dataset`.
        workers: Processes that pack one subject each; 0 uses this one.
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
        raise InputError(f"{', '.join(sorted(twice))}: in more than one folder; give people other names, or pack apart")
    if len({(entry.views, entry.poses) for entry in subjects}) > 1:
        raise InputError("the folders have human lists with different views or poses; pack them apart")


def _pack_all(
    pack: Callable[[HumanEntry], None],
    subjects: Sequence[HumanEntry],
    todo: Sequence[HumanEntry],
    out: Path,
    workers: int,
) -> None:
    """Pack what is to do, and list the subjects that are packed then."""
    broken = set()
    with tqdm(total=len(todo), desc="pack", unit="person") as bar, logging_redirect_tqdm():
        for entry, error in _attempts(pack, todo, workers):
            bar.update()
            if error is not None:
                logger.warning("not packed: %s: %s", entry.path, error)
                broken.add(entry.subject)
    _write_list([entry for entry in subjects if entry.subject not in broken], out)
    if broken:
        raise InputError(
            f"{len(broken)} of {len(subjects)} captures could not be packed, each for the reason above: "
            f"{', '.join(sorted(broken))}; mend them and pack again, or train on the others, which human.json names"
        )


def _attempts(
    pack: Callable[[HumanEntry], None], todo: Sequence[HumanEntry], workers: int
) -> Iterator[tuple[HumanEntry, InputError | None]]:
    """Pack each subject, and say of each whether it could be used. Whatever else goes wrong ends all."""
    if workers == 0:
        for entry in todo:
            yield entry, _error_of(partial(pack, entry))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
        entries = {pool.submit(pack, entry): entry for entry in todo}
        try:
            for future in as_completed(entries):
                yield entries[future], _error_of(future.result)
        except BrokenProcessPool as error:
            raise InputError(
                "a process that packed was stopped, most likely for want of memory; take fewer --workers (people that "
                "are packed stay)"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a full disk, say: those that wait need not find it too


def _start_worker() -> None:
    torch.set_num_threads(1)
    end_with_parent()


def _error_of(call: Callable[[], None]) -> InputError | None:
    try:
        call()
    except InputError as error:
        return error
    return None


def _keep_settings(subjects: Sequence[HumanEntry], out: Path, name: str, **settings: object) -> None:
    """Note down how the copies in a folder are made, or refuse to add others to them."""
    path = out / name
    views, poses = subjects[0].views, subjects[0].poses
    chosen = {"views": None if views is None else list(views), "poses": None if poses is None else list(poses)}
    records = {record: read_json(record) for record in sorted(out.glob("packing*.json"))}
    for record, earlier in records.items():
        # Copies of the other kind, and crops of other sizes, need only have the same list: there is one `human.json`.
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
        raise InputError(f"--out {out}: holds {there[0]}, but no {name} says how made; name another folder")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings | chosen, indent=1), encoding="utf-8")


def _short(value: object) -> str:
    """A setting, and of a long list only how it begins and how many it has."""
    if not isinstance(value, list):
        return "all" if value is None else str(value)
    return ", ".join(map(str, value[:3])) + (f" ... ({len(value)})" if len(value) > 3 else "")


def _write_list(subjects: Sequence[HumanEntry], out: Path) -> None:
    """`human.json`, by which training takes these subjects and no others."""
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
    """Write the packed copy of one subject, whole or not at all; see `pack_dataset`."""
    capture = Capture(entry.path)
    model = capture.body(body)
    if verify:
        capture.verify(model)
    names, frames = _chosen(capture, entry, every)
    crops = out / entry.subject / CROPS_FOLDER  # packed while the pictures could not be
    if crops.is_dir():
        _check_cameras(entry, crops.parent)
    with atomic_path(out / entry.subject) as folder:
        for name in names:
            for frame in sorted({*frames} & {*capture.frames_of(name)}):
                _pack_picture(capture, name, frame, folder, height, quality)
        for frame in frames:
            capture.fit(frame, model)  # whatever is wrong with it is said now
            fit = capture.fits[frame]
            _copy(fit, folder / fit.parent.name / fit.name)
        _copy_cameras(entry, folder)
        if crops.is_dir():
            crops.rename(folder / CROPS_FOLDER)


def pack_subject_crops(
    entry: HumanEntry, out: Path, crop: str, size: int, every: int = 1, body: Path | None = None, verify: bool = True
) -> None:
    """Write the ready crops of one subject, whole or not at all; see `pack_crops`."""
    capture = Capture(entry.path)
    model = capture.body(body)
    if verify:
        capture.verify(model)
    names, frames = _chosen(capture, entry, every)

    def pictures() -> Iterator[tuple[Window, np.ndarray, np.ndarray] | None]:
        for frame in frames:
            for name, window in zip(names, capture.windows(frame, names, crop, model)):
                yield _cut(capture, name, frame, window, size)

    def write(folder: Path) -> None:
        fits = BodyParams.stack([capture.fit(frame, model) for frame in frames])
        write_ready_crops(crops_path(folder, crop, size), crop, size, names, frames, fits, model, pictures())

    if (out / entry.subject).is_dir():  # of crops of another size, or of smaller pictures
        _check_cameras(entry, out / entry.subject)
        write(out / entry.subject)
        return
    with atomic_path(out / entry.subject) as folder:
        write(folder)
        _copy_cameras(entry, folder)


def _chosen(capture: Capture, entry: HumanEntry, every: int) -> tuple[list[str], list[int]]:
    """Cameras and frames to pack.

    Raises:
        InputError: If there is no frame.
    """
    names = [name for name in capture.camera_names if entry.views is None or name in entry.views]
    names = names or capture.camera_names  # a list for the other rig
    frames = [frame for frame in capture.frame_ids if frame in capture.fits]
    frames = [frame for frame in frames if entry.poses is None or frame in entry.poses]
    if not frames:
        listed = "" if entry.poses is None else " that the human list names"
        raise InputError(f"{entry.path}: no frame{listed} has both a picture and a fit; fit the body, or leave it out")
    return names, frames[::every]


def _cut(
    capture: Capture, camera: str, frame: int, window: Window, size: int
) -> tuple[Window, np.ndarray, np.ndarray] | None:
    """A window of a picture, or None if there is none. One that cannot be read is left out, with a warning."""
    if frame not in capture.frames_of(camera):
        return None
    try:
        return window, *read_window(*capture.files(camera, frame), capture.size, window, size)
    except InputError as error:
        logger.warning("left out: %s", error)
        return None


def _pack_picture(capture: Capture, camera: str, frame: int, folder: Path, height: int, quality: int) -> None:
    """Write a picture and its mask at the packed size. One that cannot be read is left out, with a warning."""
    image_path, mask_path = capture.files(camera, frame)
    try:
        image = read_picture(image_path, capture.size, "RGB")
        mask = read_picture(mask_path, capture.size, "L", image.size)
    except InputError as error:
        logger.warning("left out: %s", error)
        return
    image.putalpha(mask)
    if image.height > height:
        image = _reduced(image, (round(image.width * height / image.height), height))
    image_out = folder / IMAGE_FOLDERS[0] / camera / f"{frame:04d}_img.jpg"
    mask_out = folder / MASK_FOLDERS[0] / camera / f"{frame:04d}_img_fmask.png"
    image_out.parent.mkdir(parents=True, exist_ok=True)
    mask_out.parent.mkdir(parents=True, exist_ok=True)
    image.convert("RGB").save(image_out, quality=quality, subsampling=0)
    image.getchannel("A").save(mask_out, compress_level=1)


def _reduced(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An RGBA picture at a smaller size. PIL weighs colours by alpha, so that no background reaches the person."""
    factor = image.height // size[1]
    if image.size == (factor * size[0], factor * size[1]):
        return image.reduce(factor)  # as the loader's JPEG decoder halves pictures
    return image.resize(size, FILTER)


def _check_cameras(entry: HumanEntry, copy: Path) -> None:
    """Refuse with an `InputError` to add to a copy of other cameras: crops would be cut by the original's, and read by
    the copy's."""
    for name in CAMERA_FILES:
        ours, theirs = (folder / name for folder in (copy, entry.path))
        if ours.exists() != theirs.exists() or (ours.exists() and ours.read_bytes() != theirs.read_bytes()):
            raise InputError(f"{ours}: is not that of the original any more; delete {copy}, and pack all of it again")


def _copy_cameras(entry: HumanEntry, folder: Path) -> None:
    for name in CAMERA_FILES:
        if (entry.path / name).exists():
            _copy(entry.path / name, folder / name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
