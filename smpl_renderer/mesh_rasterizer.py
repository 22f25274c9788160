"""A z-buffer rasterizer for triangle meshes in plain PyTorch, on any device.

Each face is expanded to the pixels of its bounding box, in chunks of bounded memory. One `scatter_reduce` on packed
(depth, face) keys finds the nearest face of each pixel, and barycentrics are computed for covered pixels only. A pixel
belongs to a face if its centre (at +0.5) lies inside or on the border. Two faces that share an edge evaluate it by the
same operations on the same values, so that no centre falls between them. Of faces at equal depth, the one with the
lowest index is visible.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smpl_renderer.nvdiffrast_backend import visible_faces

MeshBackend = Literal["torch", "nvdiffrast"]
NO_HIT = torch.iinfo(torch.int64).max
"""Key of a pixel that no face covers."""
CANDIDATES_CPU = 1 << 18
"""Pixels tested at a time on a CPU: few enough for its cache."""
CANDIDATES_CUDA = 1 << 24
"""Pixels tested at a time on a GPU: enough to fill it."""


@dataclass(frozen=True)
class Fragments:
    """The visible surface: one entry per covered pixel, by ascending `pixel_ids`."""

    pixel_ids: Int[Tensor, " P"]
    """Indices into the flattened `[B, H, W]` images."""
    face_ids: Int[Tensor, " P"]
    """Index of the visible face."""
    barycentrics: Float[Tensor, "P 3"]
    """Perspective-correct weights of the three vertices of the face."""
    depths: Float[Tensor, " P"]
    """Depth of the surface, in the units of the vertices' depths."""


def rasterize_mesh(
    pixels: Float[Tensor, "*batch V 2"],
    depths: Float[Tensor, "*batch V"],
    faces: Int[Tensor, "F 3"],
    height: int,
    width: int,
    *,
    near: float = 1e-2,
    cull: bool | Bool[Tensor, " F"] = False,
    perspective: bool = True,
    backend: MeshBackend = "torch",
) -> tuple[Int[Tensor, "*batch H W"], Float[Tensor, "*batch H W 3"]]:
    """Rasterize a mesh to images of face indices (-1 for background) and barycentrics (0 for background).

    Takes the arguments of `rasterize_fragments`, with any batch axes.
    """
    batch = depths.shape[:-1]
    count = batch.numel()
    found = rasterize_fragments(
        pixels.reshape(count, -1, 2),
        depths.reshape(count, -1),
        faces,
        height,
        width,
        near=near,
        cull=cull,
        perspective=perspective,
        backend=backend,
    )
    face_ids = torch.full((count * height * width,), -1, dtype=torch.int64, device=depths.device)
    barycentrics = depths.new_zeros(count * height * width, 3)
    face_ids[found.pixel_ids] = found.face_ids
    barycentrics[found.pixel_ids] = found.barycentrics
    return face_ids.reshape(*batch, height, width), barycentrics.reshape(*batch, height, width, 3)


def rasterize_fragments(
    pixels: Float[Tensor, "B V 2"],
    depths: Float[Tensor, "B V"],
    faces: Int[Tensor, "F 3"],
    height: int,
    width: int,
    *,
    near: float = 1e-2,
    cull: bool | Bool[Tensor, " F"] = False,
    perspective: bool = True,
    max_candidates: int | None = None,
    backend: MeshBackend = "torch",
) -> Fragments:
    """Find the visible point of a mesh at each pixel of B images.

    Args:
        pixels: Projected vertices in pixels (x right, y down, pixel centres at +0.5).
        depths: Depths of the vertices, along the optical axis.
        faces: Vertex indices, counter-clockwise seen from outside.
        near: Faces with a vertex nearer than this are dropped; they are not clipped.
        cull: Back-face culling: for all faces, for none, or for those marked.
        perspective: Interpolate 1 / depth across a face (pinhole) instead of depth (orthographic).
        max_candidates: Pixels tested at a time, which bounds the memory.
        backend: `torch` for this module, or `nvdiffrast` to find visible faces by that package, which needs CUDA and
            rounds vertices to 1/16 pixel.
    """
    if pixels.shape[:-1] != depths.shape:
        raise ValueError(f"pixels [B, V, 2] and depths [B, V] must match, got {[*pixels.shape]} and {[*depths.shape]}")
    if backend not in get_args(MeshBackend):
        raise ValueError(f"backend must be one of {', '.join(get_args(MeshBackend))}, got {backend!r}")
    if max_candidates is None:
        max_candidates = CANDIDATES_CUDA if depths.is_cuda else CANDIDATES_CPU
    # Positive float32 values compare like their bit patterns, on which the packed keys rely.
    pixels, depths = pixels.detach().float(), depths.detach().float()
    num_pixels = height * width
    setup = _set_up_faces(pixels, depths, faces, height, width, near, cull)
    if backend == "nvdiffrast":
        owners = faces, setup.batch_ids, setup.face_ids
        pixel_ids, face_ids = visible_faces(pixels, depths, *owners, height, width, perspective)
        hit_depths = None
    else:
        keys = torch.full((pixels.shape[0] * num_pixels,), NO_HIT, dtype=torch.int64, device=depths.device)
        for start, stop in _chunks(setup.box_width * setup.box_height, max_candidates):
            _test_chunk(setup.chunk(start, stop), keys, height, width, perspective)
        pixel_ids = torch.nonzero(keys != NO_HIT)[:, 0]
        hits = keys[pixel_ids]
        face_ids = hits & 0xFFFFFFFF
        hit_depths = (hits >> 32).to(torch.int32).view(torch.float32)

    batch_ids = torch.div(pixel_ids, num_pixels, rounding_mode="floor")
    in_image = pixel_ids - batch_ids * num_pixels
    rows = torch.div(in_image, width, rounding_mode="floor")
    corner_ids = faces[face_ids] + batch_ids[:, None] * pixels.shape[1]
    barycentrics = _screen_barycentrics(
        *pixels.reshape(-1, 2).T[:, corner_ids.T], (in_image - rows * width).float() + 0.5, rows.float() + 0.5
    )
    corner_depths = depths.reshape(-1)[corner_ids]
    if backend == "nvdiffrast":
        barycentrics = barycentrics.clamp(min=0)  # rounded vertices: a centre may lie slightly outside its face
    if perspective:
        barycentrics = barycentrics / corner_depths
    barycentrics = barycentrics / barycentrics.sum(-1, keepdim=True)
    if hit_depths is None:
        hit_depths = (barycentrics * corner_depths).sum(-1)
    return Fragments(pixel_ids, face_ids, barycentrics, hit_depths)


@dataclass(frozen=True)
class _FaceSetup:
    """Faces that may cover a pixel, one entry per face and image; edges are linear functions of the pixel position."""

    batch_ids: Tensor  # [S]
    face_ids: Tensor  # [S]
    box_left: Tensor  # [S] float with integer values, which divides faster
    box_top: Tensor
    box_width: Tensor  # [S] int64
    box_height: Tensor
    edges: Tensor  # [3, 3, S]: edge k is e[k, 0] x + e[k, 1] y + e[k, 2], zero on the side opposite to vertex k
    depths: Tensor  # [S, 3]

    def chunk(self, start: int, stop: int) -> "_FaceSetup":
        parts = {name: getattr(self, name)[..., start:stop] for name in self.__dataclass_fields__ if name != "depths"}
        return _FaceSetup(**parts, depths=self.depths[start:stop])


def _set_up_faces(pixels, depths, faces, height, width, near, cull) -> _FaceSetup:
    corners, corner_depths = pixels[:, faces], depths[:, faces]  # [B, F, 3, 2], [B, F, 3]
    side_a, side_b = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    doubled_area = side_a[..., 0] * side_b[..., 1] - side_a[..., 1] * side_b[..., 0]
    lower, upper = corners.amin(2), corners.amax(2)
    size = pixels.new_tensor([width, height])
    first = (lower - 0.5).ceil().clamp(min=0)
    last = torch.minimum((upper - 0.5).floor(), size - 1)
    kept = (corner_depths > near).all(-1) & (doubled_area != 0) & (last >= first).all(-1)
    if cull is not False:
        # The y axis of images points down, so front faces, counter-clockwise from outside, have negative area.
        seen_from_behind = doubled_area > 0
        kept &= ~seen_from_behind if cull is True else ~(seen_from_behind & cull)
    batch_ids, face_ids = torch.nonzero(kept, as_tuple=True)
    corners, corner_depths = corners[batch_ids, face_ids], corner_depths[batch_ids, face_ids]
    first, last = first[batch_ids, face_ids], last[batch_ids, face_ids]
    orientation = doubled_area[batch_ids, face_ids].sign()
    vertex_ids = faces[face_ids]
    edges = torch.stack([_edge(corners, vertex_ids, orientation, k) for k in range(3)])
    box = (last - first + 1).long()
    return _FaceSetup(batch_ids, face_ids, first[:, 0], first[:, 1], box[:, 0], box[:, 1], edges, corner_depths)


def _edge(corners: Tensor, vertex_ids: Tensor, orientation: Tensor, k: int) -> Tensor:
    """Edge opposite to vertex k as a linear function [3, S]; exactly equal up to sign for both faces that share it."""
    i, j = (k + 1) % 3, (k + 2) % 3
    ordered = vertex_ids[:, i] < vertex_ids[:, j]
    low = torch.where(ordered[:, None], corners[:, i], corners[:, j])
    high = torch.where(ordered[:, None], corners[:, j], corners[:, i])
    sign = torch.where(ordered, orientation, -orientation)
    slope_x, slope_y = (low[:, 1] - high[:, 1]) * sign, (high[:, 0] - low[:, 0]) * sign
    return torch.stack([slope_x, slope_y, -(slope_x * low[:, 0] + slope_y * low[:, 1])])


def _chunks(counts: Tensor, limit: int) -> list[tuple[int, int]]:
    """Split faces into runs whose counts of candidates sum to about `limit`; a single face may exceed it."""
    if counts.numel() == 0:
        return []
    ends = counts.cumsum(0)
    total = int(ends[-1])
    limits = torch.arange(limit, total + limit, limit, device=counts.device)
    stops = torch.searchsorted(ends, limits, right=True).clamp(max=counts.numel()).unique().tolist()
    stops = [s for s in stops if s > 0]
    if not stops or stops[-1] < counts.numel():
        stops.append(counts.numel())
    return list(zip([0, *stops[:-1]], stops))


def _test_chunk(faces: _FaceSetup, keys: Tensor, height: int, width: int, perspective: bool) -> None:
    """Test the pixels of the faces' boxes, and lower the keys of covered pixels to the nearest face."""
    counts = faces.box_width * faces.box_height
    total = int(counts.sum())
    owners = torch.repeat_interleave(torch.arange(counts.numel(), device=keys.device), counts, output_size=total)
    starts = counts.cumsum(0) - counts
    local = (torch.arange(total, device=keys.device) - starts[owners]).float()
    box_width = faces.box_width.float()[owners]
    # Exact: the quotient differs from every integer by at least 0.5 / box_width.
    down = ((local + 0.5) / box_width).floor_()
    x = (faces.box_left + 0.5)[owners].add_(local).sub_(down * box_width)
    y = (faces.box_top + 0.5)[owners].add_(down)
    values = []
    for slope_x, slope_y, constant in faces.edges:
        # Separate operations: the values of both faces at an edge must round alike.
        values.append(slope_x[owners].mul_(x).add_(slope_y[owners].mul_(y)).add_(constant[owners]))
    inside = torch.nonzero(torch.minimum(torch.minimum(values[0], values[1]), values[2]) >= 0)[:, 0]
    weights = torch.stack([v[inside] for v in values], -1)
    owners = owners[inside]
    corner_depths = faces.depths[owners]
    total_weight = weights.sum(-1)
    if perspective:
        depth = total_weight / (weights / corner_depths).sum(-1)
    else:
        depth = (weights * corner_depths).sum(-1) / total_weight
    # All edges of a sliver can round to zero: such a face covers nothing.
    packed = (depth.view(torch.int32).long() << 32) | faces.face_ids[owners]
    packed = torch.where(total_weight > 0, packed, NO_HIT)
    # Centres lie at +0.5, which the conversion to integers truncates.
    pixel_ids = (faces.batch_ids[owners] * height + y[inside].long()) * width + x[inside].long()
    keys.scatter_reduce_(0, pixel_ids, packed, "amin")


def _screen_barycentrics(
    corners_x: Float[Tensor, "3 P"], corners_y: Float[Tensor, "3 P"], x: Float[Tensor, " P"], y: Float[Tensor, " P"]
) -> Float[Tensor, "P 3"]:
    """Areas of the triangles between a point and the sides of its face, relative to the area of the face."""
    dx, dy = corners_x - x, corners_y - y
    areas = torch.stack([dx[i] * dy[j] - dy[i] * dx[j] for i, j in ((1, 2), (2, 0), (0, 1))], -1)
    return areas / areas.sum(-1, keepdim=True)
