"""One training step's forward pass, as a module, so that data-parallel training wraps it whole."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_gaussians
from core.avatar.skinning import pose_avatar
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
"""What a step reports, in this order: the loss, PSNR in dB, the unweighted terms, and what tells whether anything is
drawn (`core.training.collapse`); NaN for what it does not have."""


@dataclass(frozen=True)
class InputSubset:
    """Which of a sample's input frames and views the model sees in one step."""

    frames: list[int]
    views: list[int]
    crop_index: int = 0
    """Which piece of its first target LPIPS sees (`core.losses.reconstruction.crops`)."""


def sample_input_subset(frames: int, views: int, options: DataOptions, generator: torch.Generator) -> InputSubset:
    """Drop input frames and views at random, so that the network learns to do with fewer.

    The first of each stays: the first view is what the subject frame is turned to, as it is when only one camera sees
    the person, and the first frame is among the target frames.
    """

    def draw(low: int, high: int) -> list[int]:
        kept = int(torch.randint(min(low, high), high + 1, (), generator=generator))
        others = 1 + torch.randperm(high - 1, generator=generator)[: kept - 1]
        return [0, *others.sort().values.tolist()]

    kept = draw(options.min_input_frames, frames), draw(options.min_input_views, views)
    return InputSubset(*kept, crop_index=int(torch.randint(2**16, (), generator=generator)))


class TrainingStep(nn.Module):
    """From samples to losses, in one of the three stages. Parameters that the stage does not train are frozen."""

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

    def forward(self, sample: Sample, shown: InputSubset, use_lpips: bool) -> tuple[Tensor, Tensor]:
        """The loss, and a report [len(TERMS)] without gradients."""
        inputs = sample.inputs.select_frames(shown.frames).select_views(shown.views)
        lpips = self.lpips if use_lpips else None
        if self.options.stage == "frame":
            terms, loss = self._frame_losses(self.model.frame_gaussians(inputs), sample.targets, shown, lpips)
        else:
            terms, loss = self._avatar_losses(inputs, sample.targets, shown, lpips)
        report = [loss, *(terms.get(name, loss.new_full((), float("nan"))) for name in TERMS[1:])]
        return loss, torch.stack([value.detach().float() for value in report])

    def _avatar_losses(
        self, inputs: Frames, targets: Frames, shown: InputSubset, lpips: LPIPS | None
    ) -> tuple[Terms, Tensor]:
        options = self.options
        output = self.model(inputs)
        terms = self._compare(_posed(output.avatar, self.model.body, targets), targets, lpips, shown.crop_index)
        loss = weighted_sum(terms, options.loss)
        if options.stage == "joint":
            terms["surface_distance"] = surface_distance_loss(output.frame.distances.float(), output.frame.mask)
            loss = loss + options.loss.surface_distance * terms["surface_distance"]
            if options.frame_weight > 0:
                _, terms["frame"] = self._frame_losses(output.frame, targets, shown, lpips, with_surface_distance=False)
                loss = loss + options.frame_weight * terms["frame"]
        return terms, loss

    def _frame_losses(
        self,
        frame: FrameGaussians,
        targets: Frames,
        shown: InputSubset,
        lpips: LPIPS | None,
        with_surface_distance: bool = True,
    ) -> tuple[Terms, Tensor]:
        """Every frame's own Gaussians against that frame's photographs. Target frames begin with the input frames."""
        options = self.options
        num_observed = options.data.target_frames - options.data.novel_frames
        observed = [index for index in shown.frames if index < num_observed]  # the first of the shown ones
        targets = targets.select_frames(observed)
        terms = self._compare(frame.gaussians[:, : len(observed)], targets, lpips, shown.crop_index)
        if with_surface_distance:
            terms["surface_distance"] = surface_distance_loss(frame.distances.float(), frame.mask)
        return terms, weighted_sum(terms, options.loss)

    def _compare(self, gaussians: Gaussians, targets: Frames, lpips: LPIPS | None, crop_index: int) -> Terms:
        rendering = self._draw(gaussians, targets)
        photographs = targets.images, targets.alphas
        terms = reconstruction_loss(
            rendering.colors, rendering.alphas, *photographs, self.options.loss, lpips, crop_index
        )
        seen = coverage_and_contrast(rendering.colors, rendering.alphas, *photographs)
        return terms | {"psnr": psnr(rendering.colors.detach(), targets.images).mean()} | seen

    def _draw(self, gaussians: Gaussians, targets: Frames) -> Rendering:
        return render_frames(gaussians, targets, self.options.backend)


def render_persons(avatar: Avatar, body: BodyModel, targets: Frames, backend: str) -> Rendering:
    """Avatars `[B]` in the poses and from the cameras of `targets` `[B, F, C]`, on white."""
    return render_frames(_posed(avatar, body, targets), targets, backend)


def render_frames(gaussians: Gaussians, targets: Frames, backend: str) -> Rendering:
    """Gaussians `[B, F]` of single frames from the cameras of the same frames `[B, F, C]`, on white."""
    with _full_precision(targets):
        return render_gaussians(gaussians, targets.cameras, backend=backend)


def _posed(avatar: Avatar, body: BodyModel, targets: Frames) -> Gaussians:
    with _full_precision(targets):
        return pose_avatar(avatar, body, targets.body)


def _full_precision(frames: Frames) -> torch.autocast:
    """Projection and pixel sums need float32: a position in bf16 is off by millimetres."""
    return torch.autocast(frames.images.device.type, enabled=False)
