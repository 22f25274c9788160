"""Analysis by synthesis: body fits, cameras and colour gains are corrected so that renderings of an avatar match its
input images. The avatar can then be made again from the corrected inputs.

Masks and a prior towards the given fits go with the colours. The gains, one for each colour channel of an image, follow
in closed form from the current rendering; their mean over the images is 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.avatar.avatar import Avatar, skin_gaussians
from core.avatar.rendering import render_gaussians
from core.inference.corrections import Corrections, Scales
from core.types.cameras import Cameras
from core.types.frames import Frames
from core.utils.resample import resample_area
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import matrix_to_quat, quat_multiply
from smpl_renderer.types import BodyOutput, BodyParams, PosedBody

BETAS = 0.8, 0.95
"""Decay rates of Adam's moments, short because there are few steps."""
EPS = 1e-8
ROTATION_STEPS = 10
"""Steps after which the rotations of the Gaussians are computed anew. They carry no gradient: small Gaussians show a
turn by their positions."""
GAIN_RANGE = 0.5, 2.0
"""Limits of a gain before gains are divided by their mean."""
GAIN_PRIOR = 0.05
"""Weight of a gain of 1, relative to the evidence of an image."""


RATES = Scales(
    root=0.01, transl=0.006, pose=0.015, common_pose=0.01, betas=0.06, camera_turn=0.0015, camera_shift=0.004
)
DEVIATIONS = Scales(root=0.1, transl=0.05, pose=0.15, common_pose=0.2, betas=1.0, camera_turn=0.001, camera_shift=0.002)


@dataclass(frozen=True)
class AlignOptions:
    """Settings of the alignment, which determine its result."""

    steps: int = 25
    """Steps of Adam in a round; 0 keeps fits and cameras as they are."""
    rounds: int = 2
    """Times that an avatar is made and its inputs are aligned with it."""
    size: int = 192
    """Side of the images that are compared, in pixels."""
    images: int = 8
    """Images per step, or fewer if there are not as many."""
    rates: Scales = RATES
    """Maximum change of each variable in the first step."""
    last_rate: float = 0.2
    """Rates at the end, relative to those at the start; they decay exponentially."""
    deviations: Scales = DEVIATIONS
    """Expected corrections."""
    prior: float = 2e-3
    """Weight of half the squared corrections, in units of their deviations and per image, relative to the loss."""
    alpha: float = 0.5
    """Weight of the squared error of the silhouettes, relative to that of the colours."""
    gains: bool = True
    """Solve for colour gains."""


@dataclass(frozen=True)
class Alignment:
    """Corrected inputs."""

    fits: BodyParams
    """Corrected fits [F], in the frames of the given ones: the pelvis may be off the origin."""
    cameras: Float[Tensor, "C 4 4"]
    """Transform from the given to the corrected axes of each camera; the first one's is the identity."""
    gains: Float[Tensor, "F C 3"]
    """Brightness of each channel relative to the mean image."""
    error_before: float
    """Root mean square colour error of all images with the given inputs."""
    error_after: float
    """The same with the corrected inputs."""


@dataclass(frozen=True)
class Aligner:
    """Corrects the inputs of one avatar."""

    body: BodyModel
    options: AlignOptions = AlignOptions()
    backend: str = "auto"
    """Rasterizer, as for `core.render.rasterize`."""
    supersample: int = 1
    """Supersampling factor, as for `core.avatar.rendering.render_gaussians`: bodies are moved away and made thinner
    where splats are dilated more than in training."""

    def __call__(self, avatar: Avatar, inputs: Frames, on_step: Callable[[], object] = lambda: None) -> Alignment:
        """Align the inputs [F, C] of an avatar [] with its renderings.

        Args:
            avatar: Made from these inputs.
            inputs: Frames with their fits, on the device of the avatar.
            on_step: Called after each step.
        """
        off = torch.autocast(avatar.offsets.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), off:
            avatar, inputs = avatar.detach().map(Tensor.clone), inputs.map(Tensor.clone)
            return _Alignment(self, avatar, inputs).run(on_step)


class _Alignment:
    """One run of the aligner."""

    def __init__(self, aligner: Aligner, avatar: Avatar, inputs: Frames):
        self.body, self.options = aligner.body, aligner.options
        self.backend, self.supersample = aligner.backend, aligner.supersample
        self.avatar, self.fits = avatar, inputs.body
        self.num_frames, self.num_cameras = inputs.cameras.batch_shape
        size = min(self.options.size, *inputs.images.shape[-2:])
        self.images, self.alphas = (resample_area(x, size).flatten(0, 1) for x in (inputs.images, inputs.alphas))
        cameras = inputs.cameras.resized(size, size)
        self.cameras = cameras.map(lambda x: x.flatten(0, 1))
        # As in image colour sampling, a view with an empty mask is ignored.
        self.is_valid = (self.alphas.amax((-3, -2, -1)) > 0.5).to(self.alphas)
        self.corrections = Corrections(self.fits, self.num_cameras, self.options.rates, self.body)
        self.gains = self.images.new_ones(len(self.images), 3)
        self.quats: Tensor | None = None

    def run(self, on_step: Callable[[], object]) -> Alignment:
        options, corrections = self.options, self.corrections
        optimizer = torch.optim.Adam(corrections.params.values(), lr=1.0, betas=BETAS, eps=EPS)
        order = balanced_order(self.num_frames, self.num_cameras, options.images, options.steps)
        error_before = self._error()
        for step, index in enumerate(order.to(self.images.device).unbind(), 1):
            optimizer.param_groups[0]["lr"] = options.last_rate ** (step / options.steps)
            if (step - 1) % ROTATION_STEPS == 0:
                self._update_rotations()
            squares = corrections.squares(options.deviations) / len(self.images)
            loss = self._loss(index) + options.prior / 2 * squares
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_step()
        with torch.no_grad():
            error_after = self._error()
            fits, cameras = corrections.bodies(), corrections.cameras()
            gains = self._relative_gains().unflatten(0, (self.num_frames, self.num_cameras))
            return Alignment(fits, cameras, gains, error_before, error_after)

    def _loss(self, index: Int[Tensor, " P"]) -> Float[Tensor, ""]:
        """Mean squared error of some images, and of their silhouettes."""
        colors, alphas = self._rendered_with_gains(index)
        valid = self.is_valid[index, None, None, None]
        of_colors = ((colors - self.images[index]).square() * valid).mean()
        return of_colors + self.options.alpha * ((alphas - self.alphas[index]).square() * valid).mean()

    @torch.no_grad()
    def _error(self) -> float:
        """Root mean square colour error of all images, whose gains are updated."""
        self._update_rotations()
        total = 0.0
        for index in torch.arange(len(self.images), device=self.images.device).split(self.options.images):
            errors = (self._rendered_with_gains(index)[0] - self.images[index]).square().mean((-3, -2, -1))
            total += (errors * self.is_valid[index]).sum().item()
        return math.sqrt(total / len(self.images))

    def _rendered_with_gains(self, index: Int[Tensor, " P"]) -> tuple[Tensor, Tensor]:
        """Colours [P, 3, H, W] with the gains of the images, which are updated, and silhouettes [P, 1, H, W]."""
        colors, alphas = self._render(index)
        if self.options.gains:
            self._update_gains(index, colors.detach(), alphas.detach())
            gains = self._relative_gains()[index, :, None, None]
            colors = gains * (colors - (1 - alphas)) + (1 - alphas)
        return colors, alphas

    def _render(self, index: Int[Tensor, " P"]) -> tuple[Tensor, Tensor]:
        """Renderings of some images [P]. Gaussians are moved into the axes of their camera, which differentiates the
        camera with every rasterizer."""
        frames, views = index // self.num_cameras, index % self.num_cameras
        frames, of_image = torch.unique(frames, return_inverse=True)
        output = self.body(self.corrections.bodies(frames))
        unused = output.vertex_transforms[..., :3, :3]  # skinning takes the quaternions
        # Without gradients, a GPU's kernels return rotations and scale as well (`BodyModel.pose_fused`).
        own = {f.name: getattr(output, f.name) for f in fields(BodyOutput)}
        posed = PosedBody(**own, rotations=unused, quats=self.quats[frames], scale=self.fits.scale[frames])
        gaussians = skin_gaussians(self.avatar, posed)[of_image]
        T_cam_world = self.corrections.cameras()[views] @ self.cameras.viewmats[index]
        R, t = T_cam_world[:, :3, :3], T_cam_world[:, :3, 3]
        gaussians = replace(
            gaussians,
            means=gaussians.means @ R.mT + t[:, None],
            quats=quat_multiply(matrix_to_quat(R.detach())[:, None], gaussians.quats),
        )
        identity = torch.eye(4).to(R).expand(len(index), 1, 4, 4)
        cameras = Cameras(identity, self.cameras.Ks[index, None], self.cameras.width, self.cameras.height)
        rendering = render_gaussians(gaussians, cameras, backend=self.backend, supersample=self.supersample)
        return rendering.colors[:, 0], rendering.alphas[:, 0]

    @torch.no_grad()
    def _update_rotations(self) -> None:
        self.quats = self.body.pose(self.corrections.bodies()).quats

    def _update_gains(self, index: Int[Tensor, " P"], colors: Tensor, alphas: Tensor) -> None:
        """Least-squares gain of each channel, from the pixels that rendering and mask share."""
        masks = self.alphas[index]
        rendered, seen = colors - (1 - alphas), self.images[index] - (1 - masks)  # without the white background
        weights = masks * alphas
        squares = (weights * rendered.square()).sum((-2, -1))
        products = (weights * rendered * seen).sum((-2, -1))
        gains = (products + GAIN_PRIOR * squares + 1e-6) / ((1 + GAIN_PRIOR) * squares + 1e-6)
        self.gains[index] = gains.clamp(*GAIN_RANGE)

    def _relative_gains(self) -> Float[Tensor, "P 3"]:
        valid = self.is_valid[:, None]
        mean = (self.gains * valid).sum(0) / valid.sum(0).clamp_min(1)
        return torch.where(valid > 0, self.gains / mean, 1.0)


def balanced_order(frames: int, views: int, images: int, steps: int, seed: int = 0) -> Int[Tensor, "S P"]:
    """Images of each step, as frame * views + view; every frame and every view occurs equally often, up to one."""
    generator = torch.Generator().manual_seed(seed)
    count = min(images, frames * views)
    if count == frames * views:
        return torch.arange(count).expand(steps, count)
    passes = -(-steps * count // (frames * views))
    order = []
    for _ in range(passes):
        first = torch.randperm(frames, generator=generator)
        shift = torch.randperm(views, generator=generator)
        # Diagonals: in each of them every frame occurs once, and the views alternate.
        for k in range(views):
            order += [int(f) * views + int(shift[(i + k) % views]) for i, f in enumerate(first)]
    return torch.tensor(order[: steps * count]).view(steps, count)


def without_gains(inputs: Frames, gains: Float[Tensor, "F C 3"]) -> Frames:
    """The inputs with the gains undone, on white."""
    gains = gains[..., None, None].clamp_min(1e-3)
    own = inputs.images - (1 - inputs.alphas)
    return replace(inputs, images=(own / gains + (1 - inputs.alphas)).clamp(0, 1))
