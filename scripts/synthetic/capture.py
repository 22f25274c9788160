"""Captures of synthetic people on disk, in MVHumanNet's layout or in our own format."""

import json
import pickle
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from scripts.synthetic.fits import perturb_fits, write_fits
from scripts.synthetic.layout import STAMP, fit_file, image_files, refit_file
from scripts.synthetic.options import CaptureOptions
from scripts.synthetic.own_format import write_own_format
from scripts.synthetic.rigs import Rig
from scripts.synthetic.seeding import random_stream
from scripts.synthetic.staging import Staged, draw_images, stage
from scripts.synthetic.stamp import make_stamp
from smpl_renderer.body_model import BodyModel
from smpl_renderer.files import atomic_path
from smpl_renderer.mesh_rasterizer import MeshBackend

MAX_UNWRITTEN = 64
"""Maximum number of images in memory that wait to be written: a GPU draws faster than JPEG files are encoded."""


def write_capture(
    folder: Path,
    index: int,
    options: CaptureOptions,
    *,
    body: BodyModel,
    device: str = "cpu",
    mesh_rasterizer: MeshBackend = "torch",
) -> None:
    """Write one person's capture. The folder appears when it is complete.

    Args:
        folder: The subject's folder; its name is the subject's id.
        index: Index of the person within the seed and split.
        options: Options of the capture.
        body: Body model on the CPU.
        device: Device that draws the images.
        mesh_rasterizer: Backend that finds the visible faces.
    """
    for left in folder.parent.glob(f".{folder.name}.*"):  # from a run that was killed while writing this person
        shutil.rmtree(left, ignore_errors=True)
    staged = stage(index, options, body, device, mesh_rasterizer)
    fits = staged.params
    if options.fit_noise > 0:
        rng = random_stream(options.seed, options.split, index, "fit")
        fits = perturb_fits(fits, options.frames, options.fit_noise, rng)
    with atomic_path(folder) as target, ThreadPoolExecutor(2) as writers:
        target.mkdir()
        for job in _write_images(target, staged, options, writers):
            job.result()
        stamp = make_stamp(index, options, body)
        if options.format == "capture":
            write_own_format(target, staged.rig, fits, options.frames, stamp)
            return
        _write_cameras(target, staged.rig, long_center=index % 3 == 0)
        write_fits(target, body, fits, options.frames, smpl_param=options.smpl_param, points=options.points)
        if options.holes:
            _punch_holes(target, staged.rig, options)
        (target / STAMP).write_text(json.dumps(stamp, indent=1))


def _write_cameras(folder: Path, rig: Rig, long_center: bool) -> None:
    intrinsics = {"intrinsics": rig.intrinsics.tolist(), "dist": []}
    (folder / "camera_intrinsics.json").write_text(json.dumps(intrinsics, indent=1))
    (folder / "camera_extrinsics.json").write_text(json.dumps(rig.extrinsics(long_center), indent=1))
    (folder / "camera_scale.pkl").write_bytes(pickle.dumps(rig.camera_scale, protocol=4))


def _write_images(folder: Path, staged: Staged, options: CaptureOptions, writers: ThreadPoolExecutor) -> list[Future]:
    """Draw all images and submit them for writing; returns the unfinished jobs."""
    for name in staged.rig.names:
        for file in image_files(folder, name, options.frames[0], options.format):
            file.parent.mkdir(parents=True)
    jobs = deque()
    for frame in options.frames:
        for names, colors, alphas in draw_images(staged, frame, options):
            for name, color, alpha in zip(names, colors, alphas):
                if len(jobs) == MAX_UNWRITTEN:
                    jobs.popleft().result()
                jobs.append(writers.submit(_write_view, folder, name, frame, color, alpha, options))
    return list(jobs)


def _write_view(folder: Path, camera: str, frame: int, color, alpha, options: CaptureOptions) -> None:
    image, mask = image_files(folder, camera, frame, options.format)
    # Chroma at full resolution: the usual subsampling costs 3 dB.
    how = {"quality": options.quality, "subsampling": 0, "optimize": True, "progressive": options.compact}
    Image.fromarray(color).save(image, **how)
    Image.fromarray(alpha).save(mask, compress_level=9 if options.compact else 4)


def _punch_holes(folder: Path, rig: Rig, options: CaptureOptions) -> None:
    """Remove fits and a camera, and change the size of a mask, as in real captures."""
    for position, frame in enumerate(options.frames):
        if position % 3 == 1:
            fit_file(folder, frame).unlink(missing_ok=True)
        if position % 6 == 4:  # half of these frames have no fit at all
            refit_file(folder, frame).unlink()
            refit_file(folder, frame).with_suffix(".ply").unlink(missing_ok=True)
    if len(rig.names) > 1:
        for file in image_files(folder, rig.names[-1], options.frames[0]):
            shutil.rmtree(file.parent)
    _, path = image_files(folder, rig.names[0], options.frames[0])
    mask = Image.open(path)
    mask.resize((mask.width * 4 // 3, mask.height * 4 // 3), Image.Resampling.BILINEAR).save(path)
