"""Completion of an avatar's colours: what no input image shows is coloured from what was seen elsewhere on the body.

From one image, half of the person is the network's guess, and this guess, a mean over all clothes of its training, is
grey. Cloth, however, mostly goes around the body, both sides are alike, and hair covers the back of a head. Each unseen
Gaussian takes the colours of the seen ones that are nearest on the canonical body, where

- distances around a limb or the trunk count less than those along it,
- Gaussians of the other side stand at their mirror image, a little farther away,
- hair is coloured from hair, the neck from skin, and the face keeps the guess of the network.

Some of the network's guess remains in all of them.

Colours of Gaussians that an image shows are kept bitwise, and so is everything but colours. Not in the paper, and
without parameters to train.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from torch import Tensor

from core.avatar.avatar import Avatar, skin_gaussians
from core.avatar.rendering import render_gaussians, summed_weights
from core.model.body_regions import FACE, HAIR, HANDS, NECK, REGIONS, BodyRegions, find_regions
from core.model.surface import surface_axes
from core.ops.color_observations import observe
from core.ops.color_sampling_constants import COSINE
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import PosedBody

UNSEEN_COSINE, SEEN_COSINE = 0.05, 0.15
UNSEEN_PIXELS, SEEN_PIXELS = 0.25, 1.0
"""A Gaussian is seen if the best of its cosines, or the sum of its weights in the input images, reaches the second
value, and is unseen if both are below the first; in between, colours are blended."""
MIN_UNSEEN = 0.03
"""Share of the Gaussians, by opacity, below which an avatar keeps the guesses of the network: of several views around a
person, only folds such as the armpits are unseen, and the network knows better what they look like."""
DONOR_COSINE, DONOR_OPACITY = 0.1, 0.3
"""Least cosine and opacity of a Gaussian whose colour others take."""
DONORS = 48
"""Number of donors of each unseen Gaussian."""
DONOR_RANGE = 0.02
"""Metres beyond the nearest donor at which the weight of another is lower by a factor of e."""
AROUND = 0.35
"""Length of a metre around a limb, relative to one along it."""
ON_HEAD = 0.6
"""Length of a metre on the head, in all directions."""
MIRROR_COST, NORMAL_COST, GRAZING_COST = 0.06, 0.06, 0.02
"""Metres that a donor counts as farther away on the other side, per unit of difference of the normals, and if it is
seen at a grazing angle."""
HAIR_MARGIN = 0.1
"""Share of the head's height above the hairline where hair is taken from: the forehead is skin."""
LIKE_SKIN = 0.12
"""Distance of colours below which what lies above the hairline is skin: no hair is seen, and the guess of the network
is kept."""
NETWORK_SHARE, NETWORK_LIGHT = 0.15, 0.3
"""Share of the network's guess in the hue and in the luminance of cloth: it contains light and shade."""
NETWORK_SKIN = 0.5
"""Its share in hands, hair and neck, whose colours differ less between people than those of clothes."""
LUMINANCE = (0.3, 0.59, 0.11)
MEDIAN_STEPS, MEDIAN_EPS = 2, 0.05
"""Steps of reweighting from the mean of the donors towards their geometric median, which is less grey, and the
difference of colours that it does not resolve."""

Array = np.ndarray


@dataclass(frozen=True)
class Support:
    """Evidence of the input images for each of N Gaussians."""

    cosines: Float[Tensor, " N"]
    """Largest cosine between the surface's normal and the direction to a camera that sees it; 0: not visible."""
    pixels: Float[Tensor, " N"]
    """Sum of the compositing weights over all input images."""

    def unseen(self) -> Float[Tensor, " N"]:
        """Degree to which a Gaussian is unseen, from 0 to 1."""
        by_angle = (self.cosines - UNSEEN_COSINE) / (SEEN_COSINE - UNSEEN_COSINE)
        by_pixels = (self.pixels - UNSEEN_PIXELS) / (SEEN_PIXELS - UNSEEN_PIXELS)
        return 1 - torch.maximum(by_angle, by_pixels).clamp(0, 1)


@torch.no_grad()
def complete_colors(avatar: Avatar, body: BodyModel, inputs: Frames, backend: str = "auto") -> Avatar:
    """The avatar with colours for what no input image shows; `avatar` itself if that is less than `MIN_UNSEEN`.

    Args:
        avatar: One avatar, without batch axes.
        body: Its body.
        inputs: Its input frames [F, C].
        backend: Rasterizer.
    """
    support = find_support(avatar, body, inputs, backend)
    if (support.unseen() * avatar.opacities).sum() < MIN_UNSEEN * avatar.opacities.sum():
        return avatar
    return fill_colors(avatar, body, support)


def find_support(avatar: Avatar, body: BodyModel, inputs: Frames, backend: str = "auto") -> Support:
    """Visibility of an avatar's Gaussians in its input frames [F, C]; one frame is rendered at a time."""
    normals = surface_axes(body)[0][..., 2]
    cosines, pixels = torch.zeros_like(avatar.opacities), torch.zeros_like(avatar.opacities)
    for index in range(inputs.images.shape[0]):
        frame = Frames.stack([inputs[index : index + 1]])
        posed = body.pose(frame.body)
        seen = observe(avatar[None], normals, frame, posed)
        cosines = torch.maximum(cosines, seen.features[0, 0, :, COSINE].amax(0))
        pixels = pixels + _rendered_pixels(avatar, frame, posed, backend)
    return Support(cosines, pixels)


def _rendered_pixels(avatar: Avatar, frame: Frames, posed: PosedBody, backend: str) -> Float[Tensor, " N"]:
    """Sum of each Gaussian's weights in the images of a frame [1, 1, C]; images with an empty mask do not count."""
    has_mask = (frame.alphas.amax((-3, -2, -1), keepdim=True) > 0.5).float()
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(avatar.offsets.device.type, enabled=False):
        avatar, frame, posed = (x.map(Tensor.clone) for x in (avatar[None], frame, posed))  # not of inference mode
        colors = avatar.colors.detach().requires_grad_()
        gaussians = skin_gaussians(replace(avatar.detach(), colors=colors), posed)
        rendering = render_gaussians(gaussians, frame.cameras, backend=backend, return_weights=True)
        return summed_weights(rendering, colors, has_mask)[0]


def fill_colors(avatar: Avatar, body: BodyModel, support: Support) -> Avatar:
    """The avatar with the colours of unseen Gaussians replaced; `avatar` itself where there is nothing to replace."""
    unseen, opacities = support.unseen().cpu(), avatar.opacities.cpu()
    cosines = support.cosines.cpu()
    regions = find_regions(body)
    vertex_ids = avatar.vertex_ids.cpu()
    region = regions.ids[vertex_ids]
    is_donor = (cosines > DONOR_COSINE) & (opacities > DONOR_OPACITY)
    features = _Features(body, regions)

    colors = avatar.colors.float().cpu().numpy()
    filled, changed = colors.copy(), np.zeros(len(colors), bool)
    for index in range(len(REGIONS)):
        targets = ((region == index) & (unseen > 0)).nonzero()[:, 0]
        if index == FACE:
            continue
        of_region = region == index
        if index == NECK:
            of_region = of_region | (region == FACE)
        if index == HAIR:
            of_region = of_region & (regions.above_hairline[vertex_ids] > HAIR_MARGIN)
            of_region = of_region & ~_like_skin(avatar.colors.float().cpu(), (region == FACE) & is_donor)
        donors = (of_region & is_donor).nonzero()[:, 0]
        if not len(targets) or not len(donors):
            continue
        found = _nearest(features, index, vertex_ids[targets], vertex_ids[donors], cosines[donors])
        rows = targets.numpy()
        typical = _typical_colors(colors[donors.numpy()][found[0]], found[1])
        filled[rows] = _mixed(typical, colors[rows], is_skin=index in (HANDS, HAIR, NECK))
        changed[rows] = True
    if not changed.any():
        return avatar
    amount = (unseen * torch.from_numpy(changed)).to(avatar.colors)[:, None]
    blended = torch.lerp(avatar.colors, torch.from_numpy(filled).to(avatar.colors), amount)
    return replace(avatar, colors=torch.where(amount > 0, blended, avatar.colors))


class _Features:
    """Positions in a space where distance is unlikeness of appearance, in metres."""

    def __init__(self, body: BodyModel, regions: BodyRegions):
        self.positions = body.v_template.float().cpu().numpy()
        self.normals = surface_axes(body)[0][..., 2].float().cpu().numpy()
        self.axes = regions.axes.numpy()
        self.is_sided = regions.is_sided.tolist()

    def of(self, region: int, vertex_ids: Tensor, mirrored: bool = False) -> Float[Array, "M 7"]:
        """Features of vertices of a region, or of their mirror images.

        The right one of a pair of limbs is mirrored to the left.
        """
        rows = vertex_ids.numpy()  # a tensor of one element would count as a number
        positions, normals = self.positions[rows], self.normals[rows]
        flip = np.where((positions[:, :1] < 0) if self.is_sided[region] else mirrored, [[-1.0, 1.0, 1.0]], 1.0)
        axis = self.axes[region]
        stretch = ON_HEAD * np.eye(3)
        if axis.any():
            stretch = AROUND * np.eye(3) + (1 - AROUND) * np.outer(axis, axis)
        side = MIRROR_COST * (flip[:, :1] < 0) * np.ones((len(positions), 1))
        return np.concatenate([flip * positions @ stretch, NORMAL_COST * flip * normals, side], 1)


def _nearest(
    features: _Features, region: int, targets: Tensor, donors: Tensor, cosines: Tensor
) -> tuple[Array, Float[Array, "M K"]]:
    """Indices into the donors of the nearest ones of each target, and their weights.

    Args:
        targets, donors: Vertex of each Gaussian.
        cosines: Of the donors.
    """
    cosines = cosines.numpy()
    grazing = GRAZING_COST * (1 - cosines)[:, None]
    index = np.arange(len(donors))
    table = np.concatenate([features.of(region, donors), grazing], 1)
    if not features.is_sided[region]:
        mirrored = np.concatenate([features.of(region, donors, mirrored=True), grazing], 1)
        table, index = np.concatenate([table, mirrored]), np.concatenate([index, index])
    queries = np.pad(features.of(region, targets), ((0, 0), (0, 1)))
    count = min(DONORS, len(table))
    distances, nearest = KDTree(table).query(queries, k=count)
    distances, nearest = distances.reshape(-1, count), nearest.reshape(-1, count)
    chosen = index[nearest]
    weights = np.exp(-(distances - distances[:, :1]) / DONOR_RANGE) * cosines[chosen]
    return chosen, weights / weights.sum(1, keepdims=True)


def _like_skin(colors: Float[Tensor, "N 3"], on_face: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """True for colours like that of the face; false for all if no face is seen."""
    if not on_face.any():
        return torch.zeros(len(colors), dtype=torch.bool)
    return (colors - colors[on_face].median(0).values).norm(dim=-1) < LIKE_SKIN


def _mixed(colors: Float[Array, "M 3"], guess: Float[Array, "M 3"], is_skin: bool) -> Float[Array, "M 3"]:
    """Colours of donors mixed with the guess of the network."""
    light, guessed_light = (x @ np.array(LUMINANCE, np.float32)[:, None] for x in (colors, guess))
    of_hue, of_light = (NETWORK_SKIN, NETWORK_SKIN) if is_skin else (NETWORK_SHARE, NETWORK_LIGHT)
    hue = (1 - of_hue) * (colors - light) + of_hue * (guess - guessed_light)
    return (hue + (1 - of_light) * light + of_light * guessed_light).clip(0, 1)


def _typical_colors(colors: Float[Array, "M K 3"], weights: Float[Array, "M K"]) -> Float[Array, "M 3"]:
    """A colour between the weighted mean and the geometric median of each row, by Weiszfeld's iteration."""
    result = (weights[..., None] * colors).sum(1)
    for _ in range(MEDIAN_STEPS):
        apart = np.linalg.norm(colors - result[:, None], axis=-1)
        closer = weights / (apart + MEDIAN_EPS)
        result = (closer[..., None] * colors).sum(1) / closer.sum(1, keepdims=True)
    return result
