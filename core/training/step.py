"""The forward pass of one training step, from a sample to its loss.

It is one module, so that data-parallel training can wrap all of it.
"""

import zlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.avatar.avatar import Avatar, pose_avatar
from core.avatar.rendering import render_gaussians
from core.losses.lpips import LPIPS
from core.losses.metrics import psnr
from core.losses.reconstruction import Terms, reconstruction_loss, surface_distance_loss, weighted_sum
from core.model.hgg import FrameGaussians, HumanGaussianGraph
from core.options import DataOptions, TrainOptions
from core.render import Rendering
from core.training.collapse import coverage_and_contrast
from core.types.frames import Frames, Sample
from core.types.gaussians import Gaussians
from smpl_renderer.body_model import BodyModel

TERMS = ("loss", "psnr", "rgb", "alpha", "lpips", "ssim", "surface_distance", "frame", "coverage", "contrast")
"""Values that a step reports, in this order: the loss, PSNR in dB, the unweighted loss terms, and the statistics of
`core.training.collapse`. Terms that a step does not compute are NaN."""


@dataclass(frozen=True)
class InputSubset:
    """Indices of the input frames and views of a sample that are fed to the model in one step."""

    frames: list[int]
    views: list[int]
    crop_index: int = 0
    """Index of the crop of the first target image that LPIPS compares (`core.losses.reconstruction.crops`)."""
    gain_seed: int = 0
    """Seed of the input images' gains."""


def sample_input_subset(frames: int, views: int, options: DataOptions, generator: torch.Generator) -> InputSubset:
    """Drop input frames and views at random, so that the network is trained for fewer inputs, too.

    The first of each is kept. The subject frame is turned to the first view, also when it is the only one, and the
    first frame is among the target frames.
    """

    def draw(low: int, high: int) -> list[int]:
        kept = int(torch.randint(min(low, high), high + 1, (), generator=generator))
        others = 1 + torch.randperm(high - 1, generator=generator)[: kept - 1]
        return [0, *others.sort().values.tolist()]

    kept = draw(options.min_input_frames, frames), draw(options.min_input_views, views)
    crop_index, gain_seed = torch.randint(2**16, (2,), generator=generator).tolist()
    if options.single_image > 0 and float(torch.rand((), generator=generator)) < options.single_image:
        kept = [0], [0]
    return InputSubset(*kept, crop_index, gain_seed)


def vary_exposure(inputs: Frames, deviation: float, names: list[str], seed: int) -> Frames:
    """Multiply the colours of each input image by random gains, whose geometric mean over a subject's images is one.

    The background stays white. A single image stays as it is: its exposure cannot be known.

    Args:
        inputs: Input frames [B, F, C].
        deviation: Standard deviation of the logarithm of a gain that all channels share; each has a third of it more.
        names: Names of the B samples. The gains follow from these and the seed.
    """
    shape = inputs.images.shape[1:3]
    drawn = []
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
        brightness = torch.randn(*shape, 1, generator=generator)
        drawn.append(brightness + torch.randn(*shape, 3, generator=generator) / 3)
    logs = deviation * torch.stack(drawn)
    gains = (logs - logs.mean((1, 2), keepdim=True)).exp().to(inputs.images.device, non_blocking=True)
    background = 1 - inputs.alphas
    colors = (inputs.images - background) * gains[..., None, None]
    return replace(inputs, images=(colors + background).clamp(0, 1))


class TrainingStep(nn.Module):
    """Forward pass from samples to losses in one of the stages. Parameters that the stage does not train are frozen."""

    def __init__(self, model: HumanGaussianGraph, options: TrainOptions, lpips: LPIPS | None = None):
        super().__init__()
        self.model, self.lpips, self.options = model, lpips, options
        for name, parameter in model.named_parameters():
            in_unet = name.startswith("unet.")
            parameter.requires_grad_({"frame": in_unet, "graph": not in_unet, "joint": True}[options.stage])

    def train(self, mode: bool = True) -> "TrainingStep":
        super().train(mode)
        if self.lpips is not None:
            self.lpips.eval()
        if self.options.stage == "graph":
            self.model.unet.eval()
        return self

    def forward(self, sample: Sample, subset: InputSubset, use_lpips: bool) -> tuple[Tensor, Tensor]:
        """The loss, and a report [len(TERMS)] of detached values."""
        inputs = sample.inputs.select_frames(subset.frames).select_views(subset.views)
        if self.training and self.options.data.color_gain > 0:
            inputs = vary_exposure(inputs, self.options.data.color_gain, sample.names, subset.gain_seed)
        lpips = self.lpips if use_lpips else None
        if self.options.stage == "frame":
            terms, loss = self._frame_losses(self.model.frame_gaussians(inputs), sample.targets, subset, lpips)
        else:
            terms, loss = self._avatar_losses(inputs, sample.targets, subset, lpips)
        report = [loss, *(terms.get(name, loss.new_full((), float("nan"))) for name in TERMS[1:])]
        return loss, torch.stack([value.detach().float() for value in report])

    def _avatar_losses(
        self, inputs: Frames, targets: Frames, subset: InputSubset, lpips: LPIPS | None
    ) -> tuple[Terms, Tensor]:
        options = self.options
        output = self.model(inputs)
        terms = self._compare(_pose(output.avatar, self.model.body, targets), targets, lpips, subset.crop_index)
        loss = weighted_sum(terms, options.loss)
        if options.stage == "joint":
            terms["surface_distance"] = surface_distance_loss(output.frame.distances.float(), output.frame.mask)
            loss = loss + options.loss.surface_distance * terms["surface_distance"]
            if options.frame_weight > 0:
                _, terms["frame"] = self._frame_losses(output.frame, targets, subset, lpips, surface_distance=False)
                loss = loss + options.frame_weight * terms["frame"]
        return terms, loss

    def _frame_losses(
        self,
        frame: FrameGaussians,
        targets: Frames,
        subset: InputSubset,
        lpips: LPIPS | None,
        surface_distance: bool = True,
    ) -> tuple[Terms, Tensor]:
        """Compare the Gaussians of each single frame with the target images of that frame."""
        options = self.options
        # Target frames begin with the input frames, so indices of observed frames are valid for both.
        observed = [index for index in subset.frames if index < options.data.observed_targets]
        targets = targets.select_frames(observed)
        terms = self._compare(frame.gaussians[:, : len(observed)], targets, lpips, subset.crop_index)
        if surface_distance:
            terms["surface_distance"] = surface_distance_loss(frame.distances.float(), frame.mask)
        return terms, weighted_sum(terms, options.loss)

    def _compare(self, gaussians: Gaussians, targets: Frames, lpips: LPIPS | None, crop_index: int) -> Terms:
        rendering = self._render(gaussians, targets)
        pair = rendering.colors, rendering.alphas, targets.images, targets.alphas
        terms = reconstruction_loss(*pair, self.options.loss, lpips, crop_index)
        return terms | {"psnr": psnr(rendering.colors.detach(), targets.images).mean()} | coverage_and_contrast(*pair)

    def _render(self, gaussians: Gaussians, targets: Frames) -> Rendering:
        """Separate method, so that `scripts/benchmark.py step` can time it."""
        return render_frames(gaussians, targets, self.options.backend)


def render_avatars(avatar: Avatar, body: BodyModel, targets: Frames, backend: str) -> Rendering:
    """Renderings of avatars `[B]` in the poses and from the cameras of `targets` `[B, F, C]`, on white."""
    return render_frames(_pose(avatar, body, targets), targets, backend)


def render_frames(gaussians: Gaussians, targets: Frames, backend: str) -> Rendering:
    """Renderings of Gaussians `[B, F]` of single frames from the cameras of these frames `[B, F, C]`, on white."""
    with _full_precision(targets):
        return render_gaussians(gaussians, targets.cameras, backend=backend)


def _pose(avatar: Avatar, body: BodyModel, targets: Frames) -> Gaussians:
    with _full_precision(targets):
        return pose_avatar(avatar, body, targets.body)


def _full_precision(frames: Frames) -> torch.autocast:
    """Context without autocast: projection and pixel sums need float32, a position in bf16 is off by millimetres."""
    return torch.autocast(frames.images.device.type, enabled=False)
