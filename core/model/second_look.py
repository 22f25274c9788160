"""The second look: once the avatar's Gaussians are placed, look up in the input pictures what each of them looks like.

Every Gaussian is posed into every input moment and projected into every input view. Where it is seen, the picture's
colour is an observation, and learned weights blend all observations with the colour that the head proposed. Where it
falls beside the person's silhouette, that speaks against it. An observation that is not visible counts exactly nothing.

Not in the paper. It carries patterns finer than the splat map into the avatar.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample, max_pool2d

from core.avatar import Avatar, Skin, at_vertices, attach
from core.data.types import Frames
from core.model.decode import shift_logits

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
COSINE_PREFERENCE = 3.0
"""Before training, views that see the skin face on count exp(3) times as much as those that graze it."""
OBSERVATION_NUMBERS = 13
EVIDENCE_NUMBERS = 2


@dataclass(frozen=True)
class Observations:
    """What the input pictures show of each Gaussian. None of it has a gradient."""

    colors: Float[Tensor, "B F C N 3"]
    coverage: Float[Tensor, "B F C N"]
    """The mask at the Gaussian's pixel."""
    cosines: Float[Tensor, "B F C N"]
    """Between the skin's normal and the direction to the camera."""
    depth_behind: Float[Tensor, "B F C N"]
    """Distance behind the nearest surface, in units of the slack."""
    pixel_size: Float[Tensor, "B F C N"]
    """Metres on the person that a pixel spans."""
    visible: Bool[Tensor, "B F C N"]
    outside: Float[Tensor, "B F C N"]
    """How clearly the Gaussian lies beside the silhouette: 1 on plain background, 0 inside or where nothing tells."""


@torch.no_grad()
def observe(avatar: Avatar, normals: Float[Tensor, "V 3"], inputs: Frames, skin: Skin) -> Observations:
    """Project avatars into their input pictures and look there.

    Args:
        avatar: B avatars.
        normals: Outward normals of the body's vertices in the rest pose.
        inputs: F moments of each person, in C views.
        skin: The fits of those moments.
    """
    with torch.autocast(inputs.images.device.type, enabled=False):
        gaussians = attach(avatar, skin)
        cameras, size = inputs.cameras, inputs.images.new_tensor([inputs.cameras.width, inputs.cameras.height])
        pixels, depths = cameras.project(gaussians.means[:, :, None])
        in_picture = (depths > NEAR) & (pixels >= 0).all(-1) & (pixels < size).all(-1)
        pixels = torch.where(in_picture[..., None], pixels, 0.0)
        samples = _sample(torch.cat([inputs.images, inputs.alphas], 3), pixels / size)  # [B, F, C, N, 4]
        coverage = samples[..., 3]

        turned = (skin.rotations @ normals[..., None])[..., 0]
        turned = at_vertices(turned, avatar.vertex_ids[:, None])[:, :, None]  # [B, F, 1, N, 3]
        towards_camera = cameras.centers[..., None, :] - gaussians.means[:, :, None]
        cosines = torch.nn.functional.cosine_similarity(turned, towards_camera, dim=-1)

        focal = cameras.Ks[..., 0, 0, None]
        pixel_size = depths / focal
        opacities = gaussians.opacities[:, :, None]
        nearest = _zbuffer(pixels / size, depths, in_picture & (opacities > OCCLUDER_OPACITY))
        # On slanted skin, the neighbours that share a cell of the buffer are nearer by the slope.
        slope = torch.sqrt(1 - cosines.square().clamp(max=1)) / cosines.clamp_min(MIN_COSINE)
        cell_size = pixel_size * (cameras.width / ZBUFFER_SIZE)
        least, most = DEPTH_SLACK
        slack = (least + 2 * cell_size * slope).clamp(max=most)
        depth_behind = (depths - nearest).clamp_min(0) / slack  # what hides nothing may lie in front of it all

        shows_person = inputs.alphas.flatten(3).amax(-1, keepdim=True) > 0.5
        outside = (1 - 2 * coverage).clamp(0, 1) * (in_picture & shows_person[..., 0, None])
        visible = in_picture & (cosines > MIN_COSINE) & (depth_behind < 1) & (coverage > 0.5) & (opacities > 0)
        return Observations(samples[..., :3], coverage, cosines, depth_behind, pixel_size, visible, outside)


def _sample(pictures: Float[Tensor, "B F C D H W"], places: Float[Tensor, "B F C N 2"]) -> Float[Tensor, "B F C N D"]:
    """Bilinear lookup at places given as shares of the picture's size."""
    grid = 2 * places.flatten(0, 2)[:, None] - 1
    samples = grid_sample(pictures.flatten(0, 2), grid, padding_mode="border", align_corners=False)
    return samples[:, :, 0].movedim(1, -1).unflatten(0, places.shape[:3])


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


class SecondLook(nn.Module):
    """Colours of an avatar's Gaussians from the pixels that see them, and a correction of those that no silhouette has
    room for.

    Args:
        context_channels: Features behind each Gaussian.
        hidden: Width of the layers that weigh observations.
    """

    def __init__(self, context_channels: int, hidden: int = 32):
        super().__init__()
        self.embed_context = nn.Linear(context_channels, hidden)
        self.embed_observation = nn.Linear(OBSERVATION_NUMBERS, hidden)
        self.weigh = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.weigh_own = nn.Linear(context_channels, 1)
        self.embed_evidence = nn.Linear(EVIDENCE_NUMBERS, hidden)
        self.correct = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 4))
        nn.init.normal_(self.correct[-1].weight, std=0.01)
        nn.init.zeros_(self.correct[-1].bias)

    def forward(
        self,
        avatar: Avatar,
        context: Float[Tensor, "B N D"],
        normals: Float[Tensor, "V 3"],
        inputs: Frames,
        skin: Skin,
    ) -> Avatar:
        """The avatar with its colours looked up.

        Args:
            avatar: As the head made it.
            context: The features behind each Gaussian.
            normals, inputs, skin: See `observe`.
        """
        seen = observe(avatar, normals, inputs, skin)
        embedded = self.embed_context(context)
        corrections = self.correct(embedded + self.embed_evidence(_evidence(seen))).float()
        return replace(
            avatar,
            colors=self._blend(seen, avatar.colors, embedded, self.weigh_own(context)),
            opacities=shift_logits(avatar.opacities, corrections[..., 0]) * (avatar.opacities > 0),
            scales=avatar.scales * torch.exp(torch.tanh(corrections[..., 1:])),
        )

    def _blend(
        self,
        seen: Observations,
        own_colors: Float[Tensor, "B N 3"],
        context: Float[Tensor, "B N D"],
        own_logits: Float[Tensor, "B N 1"],
    ) -> Float[Tensor, "B N 3"]:
        """Softmax over all observations and the head's own colour."""
        consensus = _consensus(seen)
        persons, _, _, gaussians = where = seen.visible.nonzero(as_tuple=True)
        colors = seen.colors[where]
        own, common = own_colors[persons, gaussians], consensus[persons, gaussians]
        numbers = torch.cat([colors, colors - own, colors - common, self._numbers(seen, where)], -1)
        embedded = self.embed_observation(numbers) + context[persons, gaussians]
        cosines = seen.cosines[where]
        logits = self.weigh(embedded)[..., 0].float() + COSINE_PREFERENCE * cosines

        unseen = torch.full_like(seen.cosines, -torch.inf)
        table = unseen.index_put(where, logits).flatten(1, 2)  # [B, F*C, N]
        weights = torch.cat([table, own_logits.float().movedim(-1, 1)], 1).softmax(1)
        candidates = torch.cat([seen.colors.flatten(1, 2), own_colors[:, None]], 1)
        return (weights[..., None] * candidates).sum(1)

    @staticmethod
    def _numbers(seen: Observations, where: tuple[Tensor, ...]) -> Float[Tensor, "E 4"]:
        """How trustworthy the visible observations look."""
        log_size = torch.log(seen.pixel_size[where] / 0.005)
        return torch.stack([seen.coverage[where], seen.cosines[where], seen.depth_behind[where], log_size], -1)


def _consensus(seen: Observations) -> Float[Tensor, "B N 3"]:
    """Mean of the visible colours, those seen face on counting most; outliers stand out against it."""
    weights = (seen.cosines * seen.visible)[..., None]
    return (weights * seen.colors).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1e-6)


def _evidence(seen: Observations) -> Float[Tensor, "B N 2"]:
    """How many views leave no room for a Gaussian, and how many see it; views that tell nothing add nothing."""
    counts = torch.stack([seen.outside.sum((1, 2)), seen.visible.float().sum((1, 2))], -1)
    return torch.log1p(counts)
