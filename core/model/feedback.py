"""Feedback: rounds in which the avatar is rendered as the input images show it, compared with them, and corrected.

The derivatives of the squared error with respect to each Gaussian's parameters give the direction of a change. A small
MLP, trained across subjects, maps them to a bounded update. Errors of the avatar are corrected, while those of an
inaccurate fit are not reproduced, as they would be by plain gradient descent. The derivatives are inputs of the MLP: no
gradient flows through them.

Not in the paper. As in G3R (Chen et al., ECCV 2024), gradients are inputs of a network.
"""

import os
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from core.avatar.avatar import TENSOR_FIELDS, Avatar, skin_gaussians
from core.avatar.rendering import render_gaussians, summed_weights
from core.model.decode import shift_logits
from core.render.backends import backend_name
from core.runtime.cuda_graphs import CudaGraphCache
from core.types.frames import Frames
from smpl_renderer.rotations import quat_multiply
from smpl_renderer.types import BodyParams, PosedBody

CAPTURES_FEEDBACK = True
"""Whether rounds are replayed from CUDA graphs: without, the GPU waits for the launches of some 700 small kernels."""
CHANGED_FIELDS = ("offsets", "quats", "scales", "opacities", "colors")
"""Fields of an avatar that corrections change."""
MAX_IMAGES = 16
"""Maximum number of rendered images per subject and round: some of the frames (at least one), in all views. The next
round has other frames."""
ALPHA_WEIGHT = 0.5
"""Weight of the silhouettes' squared error, relative to that of the colours."""

POSITION_RANGE = 0.04
"""Bound of a round's move of a Gaussian along each of the surface's axes, in metres."""
POSITION_UNIT = 0.01
"""Move for a value of 1, in metres, where that is small compared with the range."""
ROTATION_UNIT = 0.25
"""Rotation for a value of 1, in radians, for small values."""
COLOR_RANGE = 0.25
"""Bound of a round's change of a colour, beyond the residual of the images."""
TRUSTED_PIXELS = 0.5
"""Number of pixels at which the residual of the images counts half."""

GEOMETRY_CHANNELS = 3 + 1 + 3 + 3
"""Position, opacity, scales, rotation."""
UPDATE_CHANNELS = GEOMETRY_CHANNELS + 3 + 1
"""Geometry, colour, and the logit of the share of the residual that is added to the colour."""
ERROR_CHANNELS = 3 + 1 + GEOMETRY_CHANNELS
STATE_CHANNELS = 3 + 1 + 3
GRADIENT_GAIN = 25.0
RESIDUAL_GAIN = 20.0
"""Factors that bring derivatives and residuals to the order of one."""
SCALE_UNIT = 0.005
"""Unit of the scales as inputs, in metres."""


@dataclass(frozen=True)
class RenderingErrors:
    """Evidence of the images against each of an avatar's Gaussians. None of it has a gradient."""

    residuals: Float[Tensor, "B N 3"]
    """Input image minus rendering: the mean over pixels, weighted by the Gaussian's share of each pixel."""
    pixels: Float[Tensor, "B N"]
    """Sum of these weights over all images, in pixels."""
    descent: Float[Tensor, "B N 10"]
    """Negative derivative of half the squared error per pixel with respect to each channel of `change_geometry`."""

    def features(self) -> Float[Tensor, "B N 14"]:
        """Inputs for a network, of order one for images of any size."""
        parts = [RESIDUAL_GAIN * self.residuals, torch.log1p(self.pixels)[..., None], GRADIENT_GAIN * self.descent]
        return torch.asinh(torch.cat(parts, -1))


def captures_feedback() -> bool:
    """True if rounds are replayed from CUDA graphs by default: `CAPTURES_FEEDBACK`, or HGG_FEEDBACK_GRAPHS=0 or 1."""
    chosen = os.environ.get("HGG_FEEDBACK_GRAPHS", "")
    return CAPTURES_FEEDBACK if chosen == "" else chosen != "0"


class Feedback(nn.Module):
    """Rounds of rendering, comparison and correction.

    Args:
        context_channels: Features of each Gaussian.
        rounds: Number of rounds; each has its own weights.
        hidden: Width of the MLPs.
    Attributes:
        backend: Rasterizer, by a name as for `core.render.rasterize`.
        graph_cache: CUDA graphs of all rounds, if the backend can be captured.
    """

    def __init__(self, context_channels: int, rounds: int, hidden: int = 64):
        super().__init__()
        self.corrections = nn.ModuleList(
            Correction(context_channels, hidden, is_last=index == rounds - 1) for index in range(rounds)
        )
        self.backend = "auto"
        self.graph_cache = CudaGraphCache()
        self.graph_cache.enabled = captures_feedback()

    def forward(
        self,
        avatar: Avatar,
        context: Float[Tensor, "B N D"],
        axes: Float[Tensor, "V 3 3"],
        inputs: Frames,
        posed: PosedBody,
    ) -> Avatar:
        """The corrected avatar.

        Args:
            avatar: B avatars.
            context: Features of each Gaussian.
            axes: Axes of the rest pose's surface at each vertex, in columns.
            inputs: F frames of each subject, in C views.
            posed: Posed bodies of these frames.
        """
        cameras, num_posed = inputs.cameras, len(vars(posed))
        # A graph may read no other tensors than these and the parameters.
        tensors = (
            *(getattr(avatar, name) for name in TENSOR_FIELDS),
            *(context, axes, inputs.images, inputs.alphas, cameras.viewmats, cameras.Ks),
            *vars(posed).values(),
            *vars(inputs.body).values(),
        )

        def correct(*tensors: Tensor) -> tuple[Tensor, ...]:
            fields, others = tensors[: len(TENSOR_FIELDS)], tensors[len(TENSOR_FIELDS) :]
            context, axes, images, alphas, viewmats, Ks = others[:6]
            own_posed, fits = PosedBody(*others[6 : 6 + num_posed]), BodyParams(*others[6 + num_posed :])
            frames = Frames(images, alphas, replace(cameras, viewmats=viewmats, Ks=Ks), fits)
            own = replace(avatar, **dict(zip(TENSOR_FIELDS, fields)))
            own = self._correct(own, context, axes, frames, own_posed)
            return tuple(getattr(own, name) for name in CHANGED_FIELDS)

        # Other backends synchronise with the device, which is not allowed during a capture.
        can_capture = backend_name(self.backend, context.device) == "triton" and self.graph_cache.can_capture(context)
        changed = self.graph_cache(self, correct, *tensors) if can_capture else correct(*tensors)
        return replace(avatar, **dict(zip(CHANGED_FIELDS, changed)))

    def _correct(self, avatar: Avatar, context: Tensor, axes: Tensor, inputs: Frames, posed: PosedBody) -> Avatar:
        own_axes = axes[avatar.vertex_ids]
        for index, correction in enumerate(self.corrections):
            errors = rendering_errors(avatar, own_axes, *_frames_of_round(inputs, posed, index), self.backend)
            avatar, context = correction(avatar, context, own_axes, errors)
        return avatar


class Correction(nn.Module):
    """An avatar's update from rendering errors. Untrained, it adds half of the colours' residuals and little else.

    Args:
        is_last: True for the last round, whose context output is unused.
    """

    def __init__(self, context_channels: int, hidden: int, is_last: bool):
        super().__init__()
        self.embed_context = nn.Sequential(nn.LayerNorm(context_channels), nn.Linear(context_channels, hidden))
        self.embed_errors = nn.Linear(ERROR_CHANNELS + STATE_CHANNELS, hidden)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.to_update = nn.Linear(hidden, UPDATE_CHANNELS)
        self.to_context = None if is_last else nn.Linear(hidden, context_channels)
        for layer in (self.to_update, self.to_context):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(
        self, avatar: Avatar, context: Float[Tensor, "B N D"], axes: Float[Tensor, "B N 3 3"], errors: RenderingErrors
    ) -> tuple[Avatar, Float[Tensor, "B N D"]]:
        """The updated avatar, and the updated context."""
        features = torch.cat([errors.features(), _state(avatar)], -1)
        hidden = self.mlp(self.embed_context(context) + self.embed_errors(features))
        geometry, colors, gain = self.to_update(hidden).float().split([GEOMETRY_CHANNELS, 3, 1], -1)
        with torch.autocast(context.device.type, enabled=False):
            avatar = change_geometry(avatar, axes, geometry)
            trust = torch.sigmoid(gain) * (errors.pixels / (errors.pixels + TRUSTED_PIXELS))[..., None]
            colors = avatar.colors + trust * errors.residuals + COLOR_RANGE * torch.tanh(colors)
            avatar = replace(avatar, colors=colors.clamp(0, 1))
        return avatar, context if self.to_context is None else context + self.to_context(hidden)


def change_geometry(avatar: Avatar, axes: Float[Tensor, "B N 3 3"], changes: Float[Tensor, "B N 10"]) -> Avatar:
    """Move Gaussians along the surface's axes, shift the logits of their opacities, scale and rotate them.

    Zeros do not change them, and transparent Gaussians stay transparent.

    Args:
        axes: Axes of the rest pose's surface at each Gaussian's vertex, in columns.
        changes: Position, opacity, scales and rotation.
    """
    position, opacity, scales, rotation = changes.split([3, 1, 3, 3], -1)
    moves = POSITION_RANGE * torch.tanh(position * (POSITION_UNIT / POSITION_RANGE))
    rotations = torch.cat([torch.ones_like(opacity), 0.5 * ROTATION_UNIT * rotation], -1)
    return replace(
        avatar,
        offsets=avatar.offsets + (axes @ moves[..., None])[..., 0],
        opacities=shift_logits(avatar.opacities, opacity[..., 0]) * (avatar.opacities > 0),
        scales=avatar.scales * torch.exp(torch.tanh(scales)),
        quats=quat_multiply(avatar.quats, normalize(rotations, dim=-1)),
    )


def rendering_errors(
    avatar: Avatar, axes: Float[Tensor, "B N 3 3"], inputs: Frames, posed: PosedBody, backend: str = "auto"
) -> RenderingErrors:
    """Render B avatars as the images `[B, F, C]` show them, and derive the squared error for each Gaussian.

    Args:
        axes: Axes of the rest pose's surface at each Gaussian's vertex, in columns.
        backend: Rasterizer.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(axes.device.type, enabled=False):
        if axes.is_inference():  # inference tensors cannot take part in autograd
            axes = axes.clone()
            avatar, inputs, posed = (x.map(Tensor.clone) for x in (avatar, inputs, posed))
        avatar = avatar.detach()
        changes = avatar.offsets.new_zeros(*avatar.opacities.shape, GEOMETRY_CHANNELS).requires_grad_()
        colors = avatar.colors.clone().requires_grad_()
        gaussians = skin_gaussians(change_geometry(replace(avatar, colors=colors), axes, changes), posed)
        rendering = render_gaussians(gaussians, inputs.cameras, backend=backend, return_weights=True)
        with torch.no_grad():
            # As in image colour sampling, a view whose mask is empty is left out.
            has_mask = (inputs.alphas.amax((-3, -2, -1), keepdim=True) > 0.5).float()
            differences = (
                has_mask * (inputs.images - rendering.colors),
                ALPHA_WEIGHT * has_mask * (inputs.alphas - rendering.alphas),
            )
        color_sums, descent = torch.autograd.grad(
            (rendering.colors, rendering.alphas), (colors, changes), differences, retain_graph=rendering.weights is None
        )
        pixels = summed_weights(rendering, colors, has_mask)
        divisor = pixels.clamp_min(1e-6)[..., None]
        return RenderingErrors(color_sums / divisor, pixels, descent / (divisor + TRUSTED_PIXELS))


def _state(avatar: Avatar) -> Float[Tensor, "B N 7"]:
    """Colours, opacities and logarithms of the scales of the Gaussians."""
    return torch.cat([avatar.colors, avatar.opacities[..., None], torch.log(avatar.scales / SCALE_UNIT)], -1)


def _frames_of_round(inputs: Frames, posed: PosedBody, index: int) -> tuple[Frames, PosedBody]:
    """Every n-th frame, so that there are at most `MAX_IMAGES` images. The next round has other frames."""
    frames, views = inputs.images.shape[1:3]
    stride = -(-frames // max(1, MAX_IMAGES // views))
    chosen = slice(index % stride, None, stride)
    return inputs[:, chosen], posed[:, chosen]
