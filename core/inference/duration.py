"""Expected duration of what follows a capture: costs in seconds on the reference machine of `core.capture.duration`."""

import torch

from core.inference.alignment import AlignOptions
from core.inference.options import InferenceOptions
from core.inference.session import LONG_VIDEO, REFINE_STEPS, SHORT_VIDEO

LOADING, AVATAR, RESULTS = "load the network", "avatar", "videos and pages"
"""Names of the stages."""
INPUT_VIEWS, INPUT_FRAMES = 4, 8
"""Cameras and frames that protocols use of a capture, at most."""
IMAGES_PER_STEP = 8
"""Images in a step of alignment or refinement, at most."""


def avatar_costs(options: InferenceOptions, frames: int, cameras: int) -> dict[str, float]:
    """Cost of each stage of the first avatar of a capture that was made of one's own images.

    Args:
        frames, cameras: Those of the capture.
    """
    images = min(frames, INPUT_FRAMES) * min(cameras, INPUT_VIEWS)
    align = AlignOptions.steps if options.align is None else options.align
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    refine = REFINE_STEPS["cuda" if on_gpu else "cpu"] if options.refine is None else options.refine
    size, video_frames = LONG_VIDEO if on_gpu or options.full else SHORT_VIDEO
    size, video_frames = options.video_size or size, options.video_frames or video_frames
    if on_gpu:
        return {
            LOADING: 4.0,
            AVATAR: 1.0 + 0.05 * images + AlignOptions.rounds * 0.03 * align + 0.01 * refine,
            RESULTS: 2.0 + 2 * 0.01 * video_frames,
        }
    step = min(images, IMAGES_PER_STEP)
    network = 0.45 + 0.17 * images
    avatar = network + refine * (0.03 + 0.045 * step) + 0.3 * options.complete + 0.05 * images
    if align:
        avatar += AlignOptions.rounds * (network + align * (0.04 + 0.027 * step))
    pixels = video_frames * (size / SHORT_VIDEO[0]) ** 2
    return {LOADING: 0.7, AVATAR: avatar, RESULTS: 1.8 + 2 * 0.018 * pixels}
