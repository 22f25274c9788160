"""Avatars refined on the very pictures that they were made from: some gradient steps from the network's answer.

A change of each number is what is optimised, in units of the number's rate, so that one step size and one pull back to
the network's answer do for all of them. What no picture shows has no gradient, and stays as it is to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_gaussians
from core.avatar.skinning import skin_gaussians
from core.avatar.unconstrained import UnconstrainedAvatar
from core.losses.lpips import LPIPS
from core.losses.reconstruction import reconstruction_loss, weighted_sum
from core.model.heads import MAX_OFFSET
from core.options import LossOptions
from core.render.backends import backend_name
from core.runtime.cuda_graphs import CudaGraphCache
from core.types.cameras import Cameras
from core.types.frames import Frames
from core.types.gaussians import Gaussians
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import PosedBody

BETAS = 0.8, 0.95
"""Adam's: some tens of steps are few."""
EPS = 1e-6
"""Adam's; the change's gradients are some 1e-3 where a Gaussian is well seen."""
LOSS = LossOptions(alpha=0.5, ssim=0.1, lpips=0.0, surface_distance=0.0)


@dataclass(frozen=True)
class Rates:
    """By how much a number may change in the first step; what has a rate of 0 is left alone."""

    colors: float = 0.08
    """Logits."""
    opacities: float = 0.08
    """Logits."""
    scales: float = 0.03
    """Logarithms."""
    offsets: float = 0.0008
    """Metres along each axis."""
    quats: float = 0.02
    """Components of unit quaternions."""


@dataclass(frozen=True)
class RefineOptions:
    """How avatars are refined; all that decides what comes out."""

    steps: int = 24
    """Of Adam. With 0, avatars stay as they are."""
    pictures: int = 4
    """Of each person in each step, if there are so many."""
    rates: Rates = Rates()
    last_rate: float = 0.25
    """Share of the rates that is left at the end; they fall exponentially."""
    prior: float = 1e-5
    """Pull of each change to zero, as the weight of half its square in units of the rates, beside the loss times the
    number of Gaussians."""
    loss: LossOptions = LOSS
    """Of which the terms of pictures count."""
    seed: int = 0
    """Of the order of the pictures."""


class _Changes:
    """Changes of avatars [B], zero at first, in units of the rates."""

    def __init__(self, avatar: Avatar, rates: Rates):
        self.avatar = avatar
        self.start = UnconstrainedAvatar.from_avatar(avatar).params
        self.rates = {f.name: rate for f in fields(rates) if (rate := getattr(rates, f.name)) > 0}
        self.numbers = {name: torch.zeros_like(self.start[name]).requires_grad_() for name in self.rates}

    def applied(self) -> Avatar:
        """The avatars with these changes."""
        changed = {name: torch.add(self.start[name], x, alpha=self.rates[name]) for name, x in self.numbers.items()}
        return UnconstrainedAvatar(self.start | changed).to_avatar(self.avatar)

    @torch.no_grad()
    def result(self) -> Avatar:
        """The same within bounds; a Gaussian that has not changed is the one there was, without rounding."""
        is_zero = [(x == 0).view(*x.shape[:2], -1).all(-1) for x in self.numbers.values()]
        unchanged = torch.stack(is_zero).all(0)
        new = self.applied()
        distances = new.offsets.norm(dim=-1, keepdim=True)
        offsets = new.offsets * (MAX_OFFSET / distances.clamp_min(MAX_OFFSET))
        new = replace(new, offsets=offsets)

        def choose(name: str) -> Tensor:
            before, after = getattr(self.avatar, name), getattr(new, name)
            return torch.where(unchanged.view(*unchanged.shape, *[1] * (after.ndim - 2)), before, after)

        return replace(new, **{name: choose(name) for name in self.start})


class _Pictures:
    """The inputs [B, F, C] as pictures [B, F C], with the skins of their moments."""

    @torch.no_grad()
    def __init__(self, inputs: Frames, refiner: "Refiner"):
        cameras = inputs.cameras
        self.images, self.alphas, viewmats, Ks = (
            x.flatten(1, 2) for x in (inputs.images, inputs.alphas, cameras.viewmats, cameras.Ks)
        )
        # An axis more: each picture is the only one of its pose.
        self.cameras = replace(cameras, viewmats=viewmats[:, :, None], Ks=Ks[:, :, None])
        self.posed = refiner.body.pose(inputs.body)
        self.views = cameras.batch_shape[-1]
        self.refiner = refiner

    def compare(self, avatar: Avatar, index: Int[Tensor, " P"]) -> Float[Tensor, ""]:
        """The loss of avatars in some of the pictures."""
        posed, cameras = self.posed[:, index // self.views], self.cameras[:, index]
        tensors = (
            *(avatar.offsets, avatar.quats, avatar.scales, avatar.opacities, avatar.colors, avatar.vertex_ids),
            *(posed.vertices, posed.joints, posed.shaped, posed.vertex_transforms),
            *(posed.rotations, posed.quats, posed.scale),
            *(cameras.viewmats, cameras.Ks, self.images[:, index], self.alphas[:, index]),
        )

        def loss(offsets, quats, scales, opacities, colors, vertex_ids, *others: Tensor) -> Tensor:
            own = Avatar(offsets, quats, scales, opacities, colors, vertex_ids, avatar.betas, avatar.body)
            *posed, rotations, turns, scale, viewmats, Ks, images, alphas = others
            gaussians = skin_gaussians(own, PosedBody(*posed, rotations, turns, scale))
            return self._loss(gaussians, replace(cameras, viewmats=viewmats, Ks=Ks), images, alphas)

        refiner = self.refiner
        # Other backends wait for the device, which a recording does not allow.
        is_recorded = backend_name(refiner.backend, self.images.device) == "triton"
        if is_recorded and refiner.graph_cache.can_capture(avatar.offsets):
            return refiner.graph_cache(refiner.body, loss, *tensors)
        return loss(*tensors)

    def _loss(self, gaussians: Gaussians, cameras: Cameras, images: Tensor, alphas: Tensor) -> Float[Tensor, ""]:
        refiner = self.refiner
        drawn = render_gaussians(gaussians, cameras, backend=refiner.backend, supersample=refiner.supersample)
        targets = _as_float(images), _as_float(alphas)
        # As in the second look, a view whose mask is empty says nothing: it differs from nothing.
        counts = targets[1].amax((-3, -2, -1), keepdim=True) > 0.5
        own = (x[:, :, 0].where(counts, target) for x, target in zip((drawn.colors, drawn.alphas), targets))
        options = refiner.options.loss
        return weighted_sum(reconstruction_loss(*own, *targets, options, refiner.lpips), options)


@dataclass(frozen=True)
class Refiner:
    """Fits avatars to pictures of the same persons, starting from where they are.

    Gaussians that are fully transparent stay so, and offsets stay within `MAX_OFFSET`. On a GPU the launches of a step
    are recorded once a kind of input comes again, and two runs differ in the last digits, because the rasterizer's sums
    do.
    """

    body: BodyModel
    """Of avatars and fits."""
    options: RefineOptions = RefineOptions()
    backend: str = "auto"
    """Rasterizer, as of `core.render.rasterize`."""
    supersample: int = 1
    """How many times as large the avatars are drawn, as of `core.avatar.rendering.render_gaussians`."""
    lpips: LPIPS | None = None
    """The perceptual distance, where the loss has a term of it."""
    graph_cache: CudaGraphCache = field(default_factory=CudaGraphCache, init=False, compare=False)

    def __call__(self, avatar: Avatar, inputs: Frames, on_step: Callable[[], object] = lambda: None) -> Avatar:
        """Refine avatars.

        Args:
            avatar: One [] or several [B].
            inputs: Moments [F, C] or [B, F, C] with their fits, packed or not, on the device of the avatars.
            tell: Called after each step.
        Returns:
            Avatars without gradients.
        Raises:
            ValueError: If the inputs are not of as many persons as the avatars.
        """
        shape = inputs.cameras.batch_shape
        if shape[:-2] != avatar.batch_shape or len(shape) > 3:
            raise ValueError(f"inputs must be [F, C] for one avatar, [B, F, C] for B; got {list(shape)}")
        avatar = avatar.detach()
        if self.options.steps == 0 or not any(vars(self.options.rates).values()):
            return avatar
        if not avatar.batch_shape:
            return self(avatar[None], inputs[None], on_step)[0]
        off = torch.autocast(avatar.offsets.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), off:
            return self._refine(avatar.map(Tensor.clone), inputs, on_step)  # no graph takes tensors of inference mode

    def _refine(self, avatar: Avatar, inputs: Frames, on_step: Callable[[], object]) -> Avatar:
        options = self.options
        changes, pictures = _Changes(avatar, options.rates), _Pictures(inputs, self)
        how = {"lr": 1.0, "betas": BETAS, "eps": EPS, "weight_decay": options.prior, "fused": True}
        optimizer = torch.optim.Adam(changes.numbers.values(), **how)
        order = _order(*inputs.cameras.batch_shape[-2:], options).to(avatar.offsets.device, non_blocking=True)
        # The loss is a mean over persons and pictures, in which each Gaussian has a small share.
        shares = avatar.opacities.numel()
        for step, index in enumerate(order.unbind(), 1):
            optimizer.param_groups[0]["lr"] = options.last_rate ** (step / options.steps)
            loss = shares * pictures.compare(changes.applied(), index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_step()
        return changes.result()


def _order(moments: int, views: int, options: RefineOptions) -> Int[Tensor, "S P"]:
    """Which pictures each step sees, moment * views + view: all views in turn, so that a step sees all sides.

    Each view shows its moments in an order of its own, and all of them before any comes again.
    """
    generator = torch.Generator().manual_seed(options.seed)
    at_once = min(options.pictures, moments * views)  # twice the same would only take longer
    rounds = -(-options.steps * at_once // (moments * views))
    shuffled = [torch.randperm(moments, generator=generator) for _ in range(rounds * views)]
    pictures = torch.stack(shuffled).view(rounds, views, moments).mT * views + torch.arange(views)
    return pictures.flatten()[: options.steps * at_once].view(options.steps, at_once)


def _as_float(pictures: Tensor) -> Tensor:
    return pictures.to(torch.float32) / 255 if pictures.dtype == torch.uint8 else pictures
