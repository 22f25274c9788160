"""Feedback: the avatar is drawn as the input pictures should show it, and corrected by how they differ.

The derivative of that difference tells for every Gaussian which way to change; how far, a small network decides that
has seen many people. So an error that the pictures prove is mended, and one that comes from a fit beside the person is
not learned by heart, as it would be by plain descent.

In the way of G3R (Chen et al., ECCV 2024), whose network is fed gradients, too. Not in the paper.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_gaussians
from core.avatar.skinning import skin_gaussians
from core.model.decode import shift_logits
from core.types.frames import Frames
from smpl_renderer.rotations import quat_multiply
from smpl_renderer.types import PosedBody

PICTURES = 16
"""Of a person that a round looks at, at most: some of the moments (at least one) in all views. The next round has other
moments."""
ALPHA_WEIGHT = 0.5
"""Of the silhouette's error beside the colours'."""

POSITION_RANGE = 0.04
"""Metres along each axis of the skin by which a round moves a Gaussian."""
POSITION_UNIT = 0.01
"""Metres by which a number moves it for each 1, as long as that is little beside the range."""
TURN_UNIT = 0.25
"""Radians by which a number turns it for each 1, for small ones."""
COLOR_RANGE = 0.25
"""By which a round changes a colour beyond what the pictures ask for."""
FEW_PIXELS = 0.5
"""A Gaussian that makes up less than this of a picture's pixels has little to say about its colour."""

CHANGES = 3 + 1 + 3 + 3
"""Position, opacity, sizes, turn."""
ERROR_NUMBERS = 3 + 1 + CHANGES
STATE_NUMBERS = 3 + 1 + 3
GRADIENT_GAIN = 25.0
RESIDUAL_GAIN = 20.0
"""They bring what the pictures say to numbers of order one."""
SIZE_UNIT = 0.005
"""Metres."""


@dataclass(frozen=True)
class Errors:
    """What pictures say against each of an avatar's Gaussians. None of it has a gradient."""

    residuals: Float[Tensor, "B N 3"]
    """Photograph minus drawing, mean over the pixels that show the Gaussian, each as much as it shows of it."""
    pixels: Float[Tensor, "B N"]
    """How many these are, in all pictures."""
    descent: Float[Tensor, "B N 10"]
    """How the `change` of each number lessens half the squared error, for each pixel."""

    def numbers(self) -> Float[Tensor, "B N 14"]:
        """For a network: of order one, whatever the size of the pictures."""
        seen = [RESIDUAL_GAIN * self.residuals, torch.log1p(self.pixels)[..., None], GRADIENT_GAIN * self.descent]
        return torch.asinh(torch.cat(seen, -1))


class Feedback(nn.Module):
    """Rounds of drawing, comparing and correcting.

    Args:
        context_channels: Features behind each Gaussian.
        rounds: How many, each with weights of its own.
        hidden: Width of the layers that decide.
    Attributes:
        backend: Of the rasterizer that draws.
    """

    def __init__(self, context_channels: int, rounds: int, hidden: int = 64):
        super().__init__()
        self.corrections = nn.ModuleList(
            Correction(context_channels, hidden, is_last=index == rounds - 1) for index in range(rounds)
        )
        self.backend = "auto"

    def forward(
        self,
        avatar: Avatar,
        context: Float[Tensor, "B N D"],
        axes: Float[Tensor, "V 3 3"],
        inputs: Frames,
        posed: PosedBody,
    ) -> Avatar:
        """The avatar, corrected.

        Args:
            avatar: B avatars.
            context: The features behind each Gaussian.
            axes: Of the skin at each vertex of the rest pose, in columns.
            inputs: F moments of each person, in C views.
            skin: The fits of those moments.
        """
        own_axes = axes[avatar.vertex_ids]
        for index, correction in enumerate(self.corrections):
            errors = compare(avatar, own_axes, *_some_moments(inputs, posed, index), self.backend)
            avatar, context = correction(avatar, context, own_axes, errors)
        return avatar


class Correction(nn.Module):
    """From errors to a better avatar: before training half of what the pictures ask of colours, and hardly more.

    Args:
        is_last: Whether nobody asks for the context any more.
    """

    def __init__(self, context_channels: int, hidden: int, is_last: bool):
        super().__init__()
        self.embed_context = nn.Sequential(nn.LayerNorm(context_channels), nn.Linear(context_channels, hidden))
        self.embed_errors = nn.Linear(ERROR_NUMBERS + STATE_NUMBERS, hidden)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.to_update = nn.Linear(hidden, CHANGES + 3 + 1)
        self.to_context = None if is_last else nn.Linear(hidden, context_channels)
        for layer in (self.to_update, self.to_context):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(
        self, avatar: Avatar, context: Float[Tensor, "B N D"], axes: Float[Tensor, "B N 3 3"], errors: Errors
    ) -> tuple[Avatar, Float[Tensor, "B N D"]]:
        """The avatar, corrected, and the context, with what was found out."""
        numbers = torch.cat([errors.numbers(), _state(avatar)], -1)
        thoughts = self.mlp(self.embed_context(context) + self.embed_errors(numbers))
        changes, colors, gain = self.to_update(thoughts).float().split([CHANGES, 3, 1], -1)
        with torch.autocast(context.device.type, enabled=False):
            avatar = change(avatar, axes, changes)
            trust = torch.sigmoid(gain) * (errors.pixels / (errors.pixels + FEW_PIXELS))[..., None]
            colors = avatar.colors + trust * errors.residuals + COLOR_RANGE * torch.tanh(colors)
            avatar = replace(avatar, colors=colors.clamp(0, 1))
        return avatar, context if self.to_context is None else context + self.to_context(thoughts)


def change(avatar: Avatar, axes: Float[Tensor, "B N 3 3"], changes: Float[Tensor, "B N 10"]) -> Avatar:
    """Move Gaussians along the axes of their skin, shift their opacities' logits, grow and turn them. Zeros leave them
    as they are, and what is transparent stays so."""
    position, opacity, sizes, turn = changes.split([3, 1, 3, 3], -1)
    moves = POSITION_RANGE * torch.tanh(position * (POSITION_UNIT / POSITION_RANGE))
    turns = torch.cat([torch.ones_like(opacity), 0.5 * TURN_UNIT * turn], -1)
    return replace(
        avatar,
        offsets=avatar.offsets + (axes @ moves[..., None])[..., 0],
        opacities=shift_logits(avatar.opacities, opacity[..., 0]) * (avatar.opacities > 0),
        scales=avatar.scales * torch.exp(torch.tanh(sizes)),
        quats=quat_multiply(avatar.quats, normalize(turns, dim=-1)),
    )


def compare(
    avatar: Avatar, axes: Float[Tensor, "B N 3 3"], inputs: Frames, posed: PosedBody, backend: str = "auto"
) -> Errors:
    """Draw avatars B as the pictures `[B, F, C]` should show them, and ask what of each Gaussian speaks against it."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(axes.device.type, enabled=False):
        if axes.is_inference():  # no graph takes what was made in inference mode
            axes = axes.clone()
            avatar, inputs, posed = (x.map(Tensor.clone) for x in (avatar, inputs, posed))
        avatar = avatar.detach()
        changes = avatar.offsets.new_zeros(*avatar.opacities.shape, CHANGES).requires_grad_()
        colors = avatar.colors.clone().requires_grad_()
        gaussians = skin_gaussians(change(replace(avatar, colors=colors), axes, changes), posed)
        drawn = render_gaussians(gaussians, inputs.cameras, backend=backend)
        with torch.no_grad():
            # As in the second look, a view whose mask is empty says nothing.
            counts = (inputs.alphas.amax((-3, -2, -1), keepdim=True) > 0.5).float()
            differences = (
                counts * (inputs.images - drawn.colors),
                ALPHA_WEIGHT * counts * (inputs.alphas - drawn.alphas),
            )
        asked, descent = torch.autograd.grad(
            (drawn.colors, drawn.alphas), (colors, changes), differences, retain_graph=True
        )
        # What a picture's sum gains with a colour: the Gaussian's share of all its pixels.
        (shares,) = torch.autograd.grad(drawn.colors, colors, counts.expand_as(drawn.colors))
        pixels = shares[..., 0]
        enough = pixels.clamp_min(1e-6)[..., None]
        return Errors(asked / enough, pixels, descent / (enough + FEW_PIXELS))


def _state(avatar: Avatar) -> Float[Tensor, "B N 7"]:
    """What the Gaussians are now."""
    return torch.cat([avatar.colors, avatar.opacities[..., None], torch.log(avatar.scales / SIZE_UNIT)], -1)


def _some_moments(inputs: Frames, posed: PosedBody, index: int) -> tuple[Frames, PosedBody]:
    """Every n-th moment, so that there are at most `PICTURES`, and others in the next round."""
    moments, views = inputs.images.shape[1:3]
    stride = -(-moments // max(1, PICTURES // views))
    chosen = slice(index % stride, None, stride)
    return inputs[:, chosen], posed[:, chosen]
