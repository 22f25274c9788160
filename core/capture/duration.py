"""Expected duration of the stages of a capture: their costs on a reference machine, and the slowness of this one."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from core.capture.frame_choice import num_candidates
from core.capture.importers.rig import ImportedRig
from core.capture.options import PrepareOptions
from core.capture.sources import InputFiles
from core.utils.time_estimate import TimeEstimate, describe_seconds
from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting import FitOptions, Observations, Silhouettes, fit_bodies
from smpl_renderer.types import BodyParams

Further = Callable[[int, int], Mapping[str, float]]
"""Costs of the stages after the capture, for its numbers of frames and cameras (`core.utils.time_estimate`)."""
CHOICE, READING, FITS, PAGES = "choose frames", "landmarks and masks", "body fits", "page of the capture"
"""Names of the stages."""
REFERENCE_SECONDS = 0.25
"""Duration of the work of `measure_slowness` on the reference machine: two free cores of 2.1 GHz, PyTorch 2.14.
The costs below, in seconds, are of that machine, too."""


def measure_slowness(body: BodyModel, clock: Callable[[], float] = time.perf_counter) -> float:
    """Duration of a few steps of a small body fit, relative to the reference machine.

    It is done on the CPU, which also bounds fits on a GPU: these mostly launch kernels.
    """
    mask = np.zeros((256, 128), np.uint8)
    mask[40:216, 50:78] = 255
    K = torch.tensor([[300.0, 0.0, 64.0], [0.0, 300.0, 128.0], [0.0, 0.0, 1.0]])
    sizes = torch.tensor([[128.0, 256.0]])

    def fit(frames: int, steps: float) -> float:
        seen = Observations(K[None], torch.eye(4)[None], sizes, silhouettes=Silhouettes.from_masks([[mask]] * frames))
        facing = BodyParams.zeros(frames, num_betas=body.num_betas)
        facing.global_orient[:, 0] = torch.pi  # y is down in the camera
        facing.transl[:, 2] = 3.0
        start = clock()
        with torch.enable_grad():
            fit_bodies(seen, body, FitOptions(steps=steps), initial=facing)
        return clock() - start

    fit(1, 0.01)  # the first use of an operation takes longer
    return fit(4, 0.03) / REFERENCE_SECONDS


def capture_size(files: InputFiles, options: PrepareOptions) -> tuple[int, int]:
    """Expected number of frames and cameras of a capture."""
    keys = files.sources[0].keys()
    frames = 1 if files.one_frame else options.frames if keys is None else min(options.frames, len(keys))
    return frames, len(files.sources)


def capture_costs(candidates: int, frames: int, cameras: int, options: PrepareOptions) -> dict[str, float]:
    """Cost of each stage in seconds.

    Args:
        candidates: Number of images among which frames are chosen.
        frames, cameras: Those of the capture.
    """
    images = frames * cameras
    given = options.keypoints is not None
    reading = images * (0.15 if given and options.masks is not None else 0.55)
    if options.mask_method == "rembg" and options.masks is None:
        reading += 2.0 * images
    if cameras == 1:
        fits = 1.2 + 0.75 * frames
    else:
        fits = 1.0 + 0.45 * images
    if options.fits is not None:
        fits *= 0.6  # starts from bodies, with fewer stages
    if torch.cuda.is_available() and options.device != "cpu":
        fits = 4.0  # of 8 frames on an H200, capturing CUDA graphs included
    choice = (0.02 if given else 0.075) * candidates
    return {CHOICE: choice, READING: reading, FITS: fits, PAGES: 0.3 + 0.06 * images}


def plan_stages(
    estimate: TimeEstimate,
    files: InputFiles,
    options: PrepareOptions,
    further: Further | None,
    chosen: int | None = None,
) -> None:
    """Plan the stages of a capture and those after it, for the expected number of frames or the chosen one."""
    frames, cameras = capture_size(files, options)
    frames = frames if chosen is None else chosen
    estimate.plan(capture_costs(0 if files.one_frame else num_candidates(files.sources[0]), frames, cameras, options))
    if further is not None:
        estimate.plan(further(frames, cameras))


def describe_plan(files: InputFiles, rig: ImportedRig | None, options: PrepareOptions, estimate: TimeEstimate) -> str:
    """One line before the work starts: what was found and about how long it takes."""
    sources = files.sources
    kind = "videos" if sources[0].is_video else "image folders"
    what = "1 video" if sources[0].is_video else _images(len(sources[0].keys()), "")
    if files.one_frame:
        what = f"{len(sources)} images of one frame"
    elif files.is_rig:
        what = f"{len(sources)} {kind}"
    frames, cameras = capture_size(files, options)
    calibrated = "" if rig is None else f", {rig.source}"
    capture = estimate.expected((CHOICE, READING, FITS, PAGES))
    share = f", of which {describe_seconds(capture)} for the capture" if capture < estimate.remaining else ""
    return f"{what}{calibrated}; {estimate.state()} for {_images(frames * cameras, 'chosen ')}{share}"


def _images(number: int, which: str) -> str:
    return f"{number} {which}image{'s' if number != 1 else ''}"
