"""Skinning of Gaussians: one launch for all poses, and one for the gradients.

Reference: `skin_gaussians_reference` in core/avatar/avatar.py.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from smpl_renderer.load_store import load3, load4, store3, store4
from smpl_renderer.types import PosedBody

BLOCK = 128  # Gaussians per program


@triton.jit
def _fwd_kernel(
    offsets, quats, scales, vertex_ids, vertices, transforms, vertex_quats, body_scales,
    means, posed_quats, posed_scales, count, num_vertices, num_poses, BLOCK: tl.constexpr,
):  # fmt: skip
    pose = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i, o = pose // num_poses * count + n, pose * count + n  # indices into the avatars and into the results
    vertex = pose * num_vertices + tl.load(vertex_ids + i, mask, 0)

    # The posed vertex is given, so the transform's linear part is applied to the offset alone.
    x, y, z = load3(offsets + i * 3, mask)
    start_x, start_y, start_z = load3(vertices + vertex * 3, mask)
    row = transforms + vertex * 16
    a, b, c = load3(row, mask)
    start_x += a * x + b * y + c * z
    a, b, c = load3(row + 4, mask)
    start_y += a * x + b * y + c * z
    a, b, c = load3(row + 8, mask)
    start_z += a * x + b * y + c * z
    store3(means + o * 3, start_x, start_y, start_z, mask)

    a, b, c, d = load4(vertex_quats + vertex * 4, mask)
    w, x, y, z = load4(quats + i * 4, mask)
    store4(
        posed_quats + o * 4,
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
        mask,
        BLOCK,
    )

    scale = tl.load(body_scales + pose)
    a, b, c = load3(scales + i * 3, mask)
    store3(posed_scales + o * 3, a * scale, b * scale, c * scale, mask)


@triton.jit
def _bwd_kernel(
    vertex_ids, transforms, vertex_quats, body_scales, g_means, g_posed_quats, g_posed_scales,
    g_offsets, g_quats, g_scales, count, num_vertices, num_poses, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program sums the gradients of a block of Gaussians over all poses: no atomics, so the order is fixed."""
    subject = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i = subject * count + n
    own_vertex = tl.load(vertex_ids + i, mask, 0)
    zero = tl.zeros([BLOCK], tl.float32)
    go_x, go_y, go_z = zero, zero, zero
    gq_w, gq_x, gq_y, gq_z = zero, zero, zero, zero
    gs_x, gs_y, gs_z = zero, zero, zero
    pose = subject * num_poses
    while pose < (subject + 1) * num_poses:
        o = pose * count + n
        vertex = pose * num_vertices + own_vertex
        row = transforms + vertex * 16
        x, y, z = load3(g_means + o * 3, mask)
        a, b, c = load3(row, mask)
        go_x, go_y, go_z = go_x + a * x, go_y + b * x, go_z + c * x
        a, b, c = load3(row + 4, mask)
        go_x, go_y, go_z = go_x + a * y, go_y + b * y, go_z + c * y
        a, b, c = load3(row + 8, mask)
        go_x, go_y, go_z = go_x + a * z, go_y + b * z, go_z + c * z

        a, b, c, d = load4(vertex_quats + vertex * 4, mask)
        w, x, y, z = load4(g_posed_quats + o * 4, mask)
        gq_w += a * w + b * x + c * y + d * z
        gq_x += a * x - b * w - c * z + d * y
        gq_y += a * y + b * z - c * w - d * x
        gq_z += a * z - b * y + c * x - d * w

        scale = tl.load(body_scales + pose)
        x, y, z = load3(g_posed_scales + o * 3, mask)
        gs_x, gs_y, gs_z = gs_x + x * scale, gs_y + y * scale, gs_z + z * scale
        pose += 1
    store3(g_offsets + i * 3, go_x, go_y, go_z, mask)
    store4(g_quats + i * 4, gq_w, gq_x, gq_y, gq_z, mask, BLOCK)
    store3(g_scales + i * 3, gs_x, gs_y, gs_z, mask)


class _SkinGaussians(torch.autograd.Function):
    @staticmethod
    def forward(ctx, offsets, quats, scales, vertex_ids, vertices, transforms, vertex_quats, body_scales):
        subjects, count = vertex_ids.shape
        sets, num_vertices = vertex_quats.shape[:2]
        sizes = count, num_vertices, sets // subjects
        means, posed_quats, posed_scales = (x.new_empty(sets, *x.shape[1:]) for x in (offsets, quats, scales))
        with torch.cuda.device_of(offsets):
            _fwd_kernel[(sets, triton.cdiv(count, BLOCK))](
                offsets, quats, scales, vertex_ids, vertices, transforms, vertex_quats, body_scales,
                means, posed_quats, posed_scales, *sizes, BLOCK,
            )  # fmt: skip
        ctx.save_for_backward(vertex_ids, transforms, vertex_quats, body_scales)
        ctx.sizes = sizes
        return means, posed_quats, posed_scales

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        vertex_ids, transforms, vertex_quats, body_scales = ctx.saved_tensors
        subjects, count = vertex_ids.shape
        out = [vertex_quats.new_empty(subjects, count, size) for size in (3, 4, 3)]
        with torch.cuda.device_of(vertex_quats):
            _bwd_kernel[(subjects, triton.cdiv(count, BLOCK))](
                vertex_ids, transforms, vertex_quats, body_scales, *(g.contiguous() for g in grads), *out,
                *ctx.sizes, BLOCK,
            )  # fmt: skip
        return *out, None, None, None, None, None


def skin_gaussians_fused(
    offsets: Float[Tensor, "*batch N 3"],
    quats: Float[Tensor, "*batch N 4"],
    scales: Float[Tensor, "*batch N 3"],
    vertex_ids: Int[Tensor, "*batch N"],
    posed: PosedBody,
) -> tuple[Float[Tensor, "*batch P N 3"], Float[Tensor, "*batch P N 4"], Float[Tensor, "*batch P N 3"]]:
    """Means, rotations and sizes of Gaussians skinned with posed bodies `[*batch P]`, in float32.

    Differentiable in `offsets`, `quats` and `scales`.
    """
    batch, count = posed.scale.shape, vertex_ids.shape[-1]
    own = (x.reshape(-1, *x.shape[len(batch) - 1 :]).contiguous() for x in (offsets, quats, scales, vertex_ids))
    tables = posed.vertices, posed.vertex_transforms, posed.quats, posed.scale
    posed = _SkinGaussians.apply(*own, *(x.reshape(-1, *x.shape[len(batch) :]).contiguous() for x in tables))
    return tuple(x.view(*batch, count, -1) for x in posed)
