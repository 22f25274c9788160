"""Packed copies of captures: the same people in the same layout, with pictures of the size that training takes.

A packed capture is a capture: K stays stated for the calibrated size, and the loader scales it to the files as ever.
What takes time in the original is decoding 1224 x 1024 pixels of which a quarter are kept. Only frames with a fit are
packed, and of a human list only its views and poses; cameras that were moved are left out, so that `data.verify` can be
off.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from core.data.crops import FILTER, read_picture
from core.data.human_list import HumanEntry
from core.data.mvhumannet import IMAGE_FOLDERS, MASK_FOLDERS, Capture
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

CAMERA_FILES = ("camera_intrinsics.json", "camera_extrinsics.json", "camera_scale.pkl", "body.json")


def pack_dataset(
    subjects: Sequence[HumanEntry],
    out: Path,
    height: int = 512,
    quality: int = 95,
    every: int = 1,
    body: Path | None = None,
    workers: int = 0,
) -> None:
    """Write packed copies of subjects, and `human.json` last. Those that are there already stay.

    Args:
        subjects: With the views and poses to pack.
        out: Folder of the copies.
        height: Of the pictures, in pixels; those of the original that are smaller keep their size.
        quality: Of the JPEG files, whose colours keep the full resolution.
        every: Pack every n-th of the frames.
        body: A body model file; by default it is found by the capture's fingerprint.
        workers: Processes that pack one subject each; 0 uses this one.
    Raises:
        InputError: If a capture cannot be used at all, or would be written onto itself.
    """
    for entry in subjects:
        if (out / entry.subject).resolve() == entry.path.resolve():
            raise InputError(f"--out {out}: holds the originals; name another folder")
    todo = [entry for entry in subjects if not (out / entry.subject).is_dir()]
    pack = partial(pack_subject, out=out, height=height, quality=quality, every=every, body=body)
    if workers == 0:
        for entry in tqdm(todo, desc="pack", unit="person"):
            pack(entry)
    else:
        with ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            futures = [pool.submit(pack, entry) for entry in todo]
            for future in tqdm(as_completed(futures), total=len(todo), desc="pack", unit="person"):
                future.result()
    record: dict[str, list[str]] = {"human_id": [entry.subject for entry in subjects]}
    if subjects[0].views is not None:
        record["view_id_list"] = list(subjects[0].views)
    if subjects[0].poses is not None:
        record["pose_id_list"] = [f"{pose:04d}" for pose in subjects[0].poses]
    with atomic_path(out / "human.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def pack_subject(entry: HumanEntry, out: Path, height: int, quality: int, every: int, body: Path | None = None) -> None:
    """Write the packed copy of one subject, whole or not at all; see `pack_dataset`."""
    capture = Capture(entry.path)
    model = capture.body(body)
    capture.verify(model)
    names = [name for name in capture.camera_names if entry.views is None or name in entry.views]
    names = names or capture.camera_names  # a list for the other rig
    frames = [frame for frame in capture.frame_ids if frame in capture.fits]
    frames = [frame for frame in frames if entry.poses is None or frame in entry.poses][::every]
    with atomic_path(out / entry.subject) as folder:
        for name in names:
            for frame in sorted({*frames} & {*capture.frames_of(name)}):
                _pack_picture(capture, name, frame, folder, height, quality)
        for frame in frames:
            capture.fit(frame, model)  # whatever is wrong with it is said now
            fit = capture.fits[frame]
            _copy(fit, folder / fit.parent.name / fit.name)
        for name in CAMERA_FILES:
            if (entry.path / name).exists():
                _copy(entry.path / name, folder / name)


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
        return image.reduce(factor)
    return image.resize(size, FILTER)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
