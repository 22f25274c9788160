"""Refinement of avatars on their input images, by some gradient steps from the network's prediction.

The optimised variable is the change of each parameter, in units of the parameter's rate, so that one step size and one
weight decay towards the prediction apply to all. A Gaussian that no image shows has no gradient and is kept bitwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.avatar.avatar import Avatar, skin_gaussians
from core.avatar.rendering import render_gaussians
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
"""Decay rates of Adam's moments, short because there are few steps."""
EPS = 1e-6
"""Adam's epsilon. Gradients of the changes are about 1e-3 where a Gaussian is well visible."""
LOSS = LossOptions(alpha=0.5, ssim=0.1, lpips=0.0, surface_distance=0.0)


@dataclass(frozen=True)
class Rates:
    """Maximum change of each parameter in the first step; parameters with a rate of 0 are kept."""

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
    """Settings of the refinement, which determine its result.

    They are stored in records of measurements, so that field names must not change.
    """

    steps: int = 24
    """Steps of Adam; 0 keeps avatars as they are."""
    images: int = 4
    """Images per subject and step, or fewer if there are not as many."""
    rates: Rates = Rates()
    last_rate: float = 0.25
    """Rates at the end, relative to those at the start; they decay exponentially."""
    prior: float = 1e-5
    """Weight of half the squared change, in units of the rates, relative to the loss times the number of Gaussians."""
    loss: LossOptions = LOSS
    """Loss weights; only the terms of images apply."""
    seed: int = 0
    """Seed of the image order."""


class _AvatarChanges:
    """Changes of avatars [B], initially zero, in units of the rates."""

    def __init__(self, avatar: Avatar, rates: Rates):
        self.avatar = avatar
        self.start = UnconstrainedAvatar.from_avatar(avatar).params
        self.rates = {f.name: rate for f in fields(rates) if (rate := getattr(rates, f.name)) > 0}
        self.params = {name: torch.zeros_like(self.start[name]).requires_grad_() for name in self.rates}

    def apply(self) -> Avatar:
        """The avatars with their changes applied."""
        changed = {name: torch.add(self.start[name], x, alpha=self.rates[name]) for name, x in self.params.items()}
        return UnconstrainedAvatar(self.start | changed).to_avatar(self.avatar)

    @torch.no_grad()
    def result(self) -> Avatar:
        """The changed avatars with offsets within bounds; unchanged Gaussians are copied, because `apply` rounds."""
        is_zero = [(x == 0).view(*x.shape[:2], -1).all(-1) for x in self.params.values()]
        unchanged = torch.stack(is_zero).all(0)
        new = self.apply()
        distances = new.offsets.norm(dim=-1, keepdim=True)
        offsets = new.offsets * (MAX_OFFSET / distances.clamp_min(MAX_OFFSET))
        new = replace(new, offsets=offsets)

        def choose(name: str) -> Tensor:
            before, after = getattr(self.avatar, name), getattr(new, name)
            return torch.where(unchanged.view(*unchanged.shape, *[1] * (after.ndim - 2)), before, after)

        return replace(new, **{name: choose(name) for name in self.start})


class _InputImages:
    """Input frames [B, F, C] as images [B, F C], with the posed bodies of their frames."""

    @torch.no_grad()
    def __init__(self, inputs: Frames, refiner: "Refiner"):
        cameras = inputs.cameras
        self.images, self.alphas, viewmats, Ks = (
            x.flatten(1, 2) for x in (inputs.images, inputs.alphas, cameras.viewmats, cameras.Ks)
        )
        # One more axis: each image is the only view of its pose.
        self.cameras = replace(cameras, viewmats=viewmats[:, :, None], Ks=Ks[:, :, None])
        self.posed = refiner.body.pose(inputs.body)
        self.views = cameras.batch_shape[-1]
        self.refiner = refiner

    def loss(self, avatar: Avatar, index: Int[Tensor, " P"]) -> Float[Tensor, ""]:
        """Loss of avatars [B] on some of the images."""
        posed, cameras = self.posed[:, index // self.views], self.cameras[:, index]
        tensors = (
            *(avatar.offsets, avatar.quats, avatar.scales, avatar.opacities, avatar.colors, avatar.vertex_ids),
            *(posed.vertices, posed.joints, posed.shaped, posed.vertex_transforms),
            *(posed.rotations, posed.quats, posed.scale),
            *(cameras.viewmats, cameras.Ks, self.images[:, index], self.alphas[:, index]),
        )

        def loss_of_tensors(offsets, quats, scales, opacities, colors, vertex_ids, *others: Tensor) -> Tensor:
            own = Avatar(offsets, quats, scales, opacities, colors, vertex_ids, avatar.betas, avatar.body)
            *posed_fields, viewmats, Ks, images, alphas = others
            gaussians = skin_gaussians(own, PosedBody(*posed_fields))
            return self._loss(gaussians, replace(cameras, viewmats=viewmats, Ks=Ks), images, alphas)

        refiner = self.refiner
        # Other backends synchronise with the device, which is not allowed during a capture.
        can_capture = backend_name(refiner.backend, self.images.device) == "triton"
        if can_capture and refiner.graph_cache.can_capture(avatar.offsets):
            return refiner.graph_cache(refiner.body, loss_of_tensors, *tensors)
        return loss_of_tensors(*tensors)

    def _loss(self, gaussians: Gaussians, cameras: Cameras, images: Tensor, alphas: Tensor) -> Float[Tensor, ""]:
        refiner = self.refiner
        rendering = render_gaussians(gaussians, cameras, backend=refiner.backend, supersample=refiner.supersample)
        targets = _as_float(images), _as_float(alphas)
        # As in image colour sampling, a view with an empty mask is ignored: it is compared with itself.
        is_valid = targets[1].amax((-3, -2, -1), keepdim=True) > 0.5
        own = (x[:, :, 0].where(is_valid, target) for x, target in zip((rendering.colors, rendering.alphas), targets))
        options = refiner.options.loss
        return weighted_sum(reconstruction_loss(*own, *targets, options, refiner.lpips), options)


@dataclass(frozen=True)
class Refiner:
    """Optimizes avatars on images of the same subjects.

    Fully transparent Gaussians stay transparent, and offsets stay within `MAX_OFFSET`. On a GPU, steps are replayed
    from CUDA graphs once an input signature repeats, and two runs differ in their last digits, as the rasterizer's sums
    do.
    """

    body: BodyModel
    """Body of the avatars and fits."""
    options: RefineOptions = RefineOptions()
    backend: str = "auto"
    """Rasterizer, as for `core.render.rasterize`."""
    supersample: int = 1
    """Supersampling factor, as for `core.avatar.rendering.render_gaussians`."""
    lpips: LPIPS | None = None
    """LPIPS, if the loss has a term of it."""
    graph_cache: CudaGraphCache = field(default_factory=CudaGraphCache, init=False, compare=False)

    def __call__(self, avatar: Avatar, inputs: Frames, on_step: Callable[[], object] = lambda: None) -> Avatar:
        """Refine avatars.

        Args:
            avatar: One [] or several [B].
            inputs: Frames [F, C] or [B, F, C] with their fits, packed or not, on the device of the avatars.
            on_step: Called after each step.
        Returns:
            Refined avatars without gradients.
        Raises:
            ValueError: If the inputs are not of as many subjects as the avatars.
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
            return self._refine(avatar.map(Tensor.clone), inputs, on_step)  # autograd refuses tensors of inference mode

    def _refine(self, avatar: Avatar, inputs: Frames, on_step: Callable[[], object]) -> Avatar:
        options = self.options
        changes, images = _AvatarChanges(avatar, options.rates), _InputImages(inputs, self)
        settings = {"lr": 1.0, "betas": BETAS, "eps": EPS, "weight_decay": options.prior, "fused": True}
        optimizer = torch.optim.Adam(changes.params.values(), **settings)
        order = image_order(*inputs.cameras.batch_shape[-2:], options).to(avatar.offsets.device, non_blocking=True)
        # The loss is a mean over subjects and images, to which each Gaussian contributes little.
        num_gaussians = avatar.opacities.numel()
        for step, index in enumerate(order.unbind(), 1):
            optimizer.param_groups[0]["lr"] = options.last_rate ** (step / options.steps)
            loss = num_gaussians * images.loss(changes.apply(), index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_step()
        return changes.result()


def image_order(frames: int, views: int, options: RefineOptions) -> Int[Tensor, "S P"]:
    """Images of each step, as frame * views + view. Views alternate, so that a step has images from all sides.

    Each view has its frames in an order of its own, and all of them before any repeats.
    """
    generator = torch.Generator().manual_seed(options.seed)
    count = min(options.images, frames * views)  # no image twice per step
    rounds = -(-options.steps * count // (frames * views))
    shuffled = [torch.randperm(frames, generator=generator) for _ in range(rounds * views)]
    order = torch.stack(shuffled).view(rounds, views, frames).mT * views + torch.arange(views)
    return order.flatten()[: options.steps * count].view(options.steps, count)


def _as_float(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
