"""Scores of held-out subjects during training. `infer.py --evaluate` measures more metrics, by a protocol."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from core.losses.metrics import psnr, psnr_in_box, quantize
from core.model.hgg import HumanGaussianGraph
from core.options import DataOptions, TrainOptions
from core.render import Rendering
from core.training.step import render_avatars, render_frames
from core.types.frames import Frames, Sample

SCORES = ("novel_view", "novel_pose", "novel_view_in_box", "novel_pose_in_box")
"""Mean PSNR in dB of novel views in input poses, and of novel poses; of whole images, and inside the subject's box."""


def validation_data(options: DataOptions) -> DataOptions:
    """Options of the validation set: those of training with at least one novel pose and fixed input views."""
    novel = max(1, options.novel_frames)
    return replace(options, novel_frames=novel, target_frames=options.observed_targets + novel, random_input_views=0.0)


@torch.no_grad()
def score(
    model: HumanGaussianGraph, samples: Iterable[Sample], options: TrainOptions, accelerator: Accelerator
) -> dict[str, float]:
    """Mean scores over the samples of all processes; scores without any image are left out.

    Args:
        samples: Packed samples of this process, of a dataset with the options of `validation_data`.
    """
    sums = torch.zeros(2, len(SCORES), dtype=torch.float64)  # decibels, and numbers of images
    for sample in samples:
        sample = sample.to(accelerator.device).unpack()
        with accelerator.autocast():
            rendering, targets = render_sample(model, sample, options)
        pair = quantize(rendering.colors), targets.images
        whole, in_box = psnr(*pair), psnr_in_box(*pair, targets.alphas)  # [B, F, C]
        observed = options.data.observed_targets
        num_inputs = sample.inputs.images.shape[-4]  # target views begin with the input views
        parts = [values for x in (whole, in_box) for values in (x[:, :observed, num_inputs:], x[:, observed:])]
        sums += torch.stack([torch.tensor([x.sum().item() for x in parts]), torch.tensor([x.numel() for x in parts])])
    total, count = accelerator.reduce(sums.float().to(accelerator.device), "sum").tolist()
    return {name: t / n for name, t, n in zip(SCORES, total, count) if n > 0}


def render_sample(model: HumanGaussianGraph, sample: Sample, options: TrainOptions) -> tuple[Rendering, Frames]:
    """Rendering of a sample's targets by the stage's network, and these targets. Stage `frame` has no novel poses."""
    if options.stage == "frame":
        targets = sample.targets[:, : options.data.observed_targets]
        frame = model.frame_gaussians(sample.inputs[:, : targets.images.shape[1]])
        return render_frames(frame.gaussians, targets, options.backend), targets
    avatar = model(sample.inputs).avatar
    return render_avatars(avatar, model.body, sample.targets, options.backend), sample.targets


@torch.no_grad()
def preview(
    model: HumanGaussianGraph, sample: Sample, options: TrainOptions, accelerator: Accelerator
) -> Float[Tensor, "3 H W"]:
    """Target images above their renderings, for the last three views of the first and of the last target frame."""
    with accelerator.autocast():
        rendering, targets = render_sample(model, sample.to(accelerator.device), options)
    rows = [images[0, [0, -1], -3:].flatten(0, 1).unbind(0) for images in (targets.images, rendering.colors)]
    return torch.cat([torch.cat(row, -1) for row in rows], -2)
