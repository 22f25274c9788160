"""What the input pictures show of an avatar's Gaussians, once these are placed."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, grid_sample, max_pool2d

from core.avatar.avatar import Avatar
from core.avatar.skinning import at_vertices, skin_gaussians
from core.types.frames import Frames
from core.types.gaussians import Gaussians
from smpl_renderer.dispatch import use_kernels
from smpl_renderer.types import PosedBody

ZBUFFER_SIZE = 128
"""Cells along each side of the depth buffer; finer ones would have holes between the Gaussians."""
NEAR = 0.05
"""Metres in front of a camera that nothing is seen within."""
MIN_COSINE = 0.05
"""Skin that faces further away than this is not seen."""
OCCLUDER_OPACITY = 0.3
"""Gaussians less opaque than this hide nothing."""
DEPTH_SLACK = (0.02, 0.1)
"""Metres behind the nearest surface at which a Gaussian still belongs to it: at least, and at most on slanted skin."""
PIXEL_UNIT = 0.005
"""Metres on the person that a pixel of usual pictures spans."""

# Where the numbers of an observation stand; its colour is the first three.
COVERAGE, COSINE, DEPTH_BEHIND, LOG_SIZE, VISIBLE = 3, 4, 5, 6, 7
NUMBERS = 8


@dataclass(frozen=True)
class Observations:
    """What F moments in C views show of each Gaussian. None of it has a gradient."""

    numbers: Float[Tensor, "B F C 8 N"]
    """All zero where the Gaussian is not visible."""
    consensus: Float[Tensor, "B N 3"]
    """Mean of the visible colours, those seen face on counting most; outliers stand out against it."""
    outside: Float[Tensor, "B N"]
    """How clearly the Gaussian lies beside silhouettes: a view adds 1 on plain background, 0 inside or where nothing
    tells."""

    @property
    def colors(self) -> Float[Tensor, "B F C N 3"]:
        return self.numbers[..., :COVERAGE, :].movedim(-2, -1)

    @property
    def coverage(self) -> Float[Tensor, "B F C N"]:
        """The mask at the Gaussian's pixel."""
        return self.numbers[..., COVERAGE, :]

    @property
    def cosines(self) -> Float[Tensor, "B F C N"]:
        """Between the skin's normal and the direction to the camera."""
        return self.numbers[..., COSINE, :]

    @property
    def depth_behind(self) -> Float[Tensor, "B F C N"]:
        """Distance behind the nearest surface, in units of the slack."""
        return self.numbers[..., DEPTH_BEHIND, :]

    @property
    def log_size(self) -> Float[Tensor, "B F C N"]:
        """Logarithm of what a pixel spans on the person, in units of `PIXEL_UNIT`."""
        return self.numbers[..., LOG_SIZE, :]

    @property
    def visible(self) -> Bool[Tensor, "B F C N"]:
        return self.numbers[..., VISIBLE, :] > 0


@torch.no_grad()
def observe(avatar: Avatar, normals: Float[Tensor, "V 3"], inputs: Frames, posed: PosedBody) -> Observations:
    """Project avatars into their input pictures and look there; on CUDA in Triton.

    Args:
        avatar: B avatars.
        normals: Outward normals of the body's vertices in the rest pose.
        inputs: F moments of each person, in C views.
        skin: The fits of those moments.
    """
    with torch.autocast(inputs.images.device.type, enabled=False):
        gaussians = skin_gaussians(avatar, posed)
        if inputs.images.is_cuda and inputs.images.dtype == gaussians.means.dtype == torch.float32 and use_kernels():
            from core.ops.observations_kernel import observe_fused as look
        else:
            look = observe_reference
        return look(gaussians, avatar.vertex_ids, posed.rotations, normals, inputs)


def observe_reference(
    gaussians: Gaussians,
    vertex_ids: Int[Tensor, "B N"],
    rotations: Float[Tensor, "B F V 3 3"],
    normals: Float[Tensor, "V 3"],
    inputs: Frames,
) -> Observations:
    """Define `observe` in plain PyTorch, for posed Gaussians (batch axes `B F`) on skin turned by `rotations`."""
    cameras = inputs.cameras
    places, depths = cameras.project(gaussians.means[:, :, None])
    places = torch.stack([places[..., 0] / cameras.width, places[..., 1] / cameras.height], -1)
    in_picture = (depths > NEAR) & (places >= 0).all(-1) & (places < 1).all(-1)
    places = torch.where(in_picture[..., None], places, 0.0)
    samples = _sample(torch.cat([inputs.images, inputs.alphas], 3), places)  # [B, F, C, 4, N]
    coverage = samples[..., 3, :]

    turned = (rotations @ normals[..., None])[..., 0]
    turned = at_vertices(turned, vertex_ids[:, None])[:, :, None]  # [B, F, 1, N, 3]
    towards_camera = cameras.centers[..., None, :] - gaussians.means[:, :, None]
    cosines = cosine_similarity(turned, towards_camera, dim=-1)

    pixel_size = depths / cameras.Ks[..., 0, 0, None]
    opacities = gaussians.opacities[:, :, None]
    nearest = _zbuffer(places, depths, in_picture & (opacities > OCCLUDER_OPACITY))
    # On slanted skin, the neighbours that share a cell of the buffer are nearer by the slope.
    slope = torch.sqrt(1 - cosines.square().clamp(max=1)) / cosines.clamp_min(MIN_COSINE)
    cell_size = pixel_size * (cameras.width / ZBUFFER_SIZE)
    least, most = DEPTH_SLACK
    slack = (least + 2 * cell_size * slope).clamp(max=most)
    depth_behind = (depths - nearest).clamp_min(0) / slack  # what hides nothing may lie in front of it all

    shows_person = inputs.alphas.flatten(3).amax(-1) > 0.5
    outside = (1 - 2 * coverage).clamp(0, 1) * (in_picture & shows_person[..., None])
    visible = in_picture & (cosines > MIN_COSINE) & (depth_behind < 1) & (coverage > 0.5) & (opacities > 0)

    log_size = torch.log(pixel_size.where(visible, PIXEL_UNIT) / PIXEL_UNIT)
    numbers = torch.stack([coverage, cosines, depth_behind, log_size, torch.ones_like(coverage)], -2)
    numbers = torch.cat([samples[..., :3, :], numbers], -2).where(visible[..., None, :], 0.0)
    return Observations(numbers, _consensus(numbers), outside.sum((1, 2)))


def _consensus(numbers: Float[Tensor, "B F C 8 N"]) -> Float[Tensor, "B N 3"]:
    cosines = numbers[..., COSINE, :]
    colors = (cosines[..., None, :] * numbers[..., :3, :]).sum((1, 2))
    return (colors / cosines.sum((1, 2))[:, None].clamp_min(1e-6)).movedim(1, -1)


def _sample(pictures: Float[Tensor, "B F C D H W"], places: Float[Tensor, "B F C N 2"]) -> Float[Tensor, "B F C D N"]:
    """Bilinear lookup at places given as shares of the picture's size."""
    grid = 2 * places.flatten(0, 2)[:, None] - 1
    samples = grid_sample(pictures.flatten(0, 2), grid, padding_mode="border", align_corners=False)
    return samples[:, :, 0].unflatten(0, places.shape[:3])


def _zbuffer(
    places: Float[Tensor, "B F C N 2"], depths: Float[Tensor, "B F C N"], counts: Bool[Tensor, "B F C N"]
) -> Float[Tensor, "B F C N"]:
    """Depth of the nearest surface around each place: the least of 3 x 3 cells, which closes gaps between Gaussians."""
    columns, rows = (places * ZBUFFER_SIZE).long().clamp(0, ZBUFFER_SIZE - 1).unbind(-1)
    cells = rows * ZBUFFER_SIZE + columns
    far = torch.finfo(depths.dtype).max
    buffer = depths.new_full((*depths.shape[:-1], ZBUFFER_SIZE**2), far)
    buffer.scatter_reduce_(-1, cells, torch.where(counts, depths, far), "amin")
    closed = -max_pool2d(-buffer.view(-1, 1, ZBUFFER_SIZE, ZBUFFER_SIZE), 3, stride=1, padding=1)
    return closed.view(buffer.shape).gather(-1, cells)
