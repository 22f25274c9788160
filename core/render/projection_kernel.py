"""EWA projection of all Gaussians into all cameras: one kernel for the forward pass, one for the backward pass.

Reference: `splat_table_reference` and `depth_keys_reference` in `core/render/splat_table.py`, which build on
`core/render/projection.py`. Variables are named as there.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from core.render import projection
from core.render.launch import Launcher
from core.render.splat_table import (
    DEPTH,
    LN_2,
    LOG2_OPACITY,
    MEAN_X,
    MEAN_Y,
    NOT_DRAWN,
    OCTAVES,
    RED,
    STRIDE,
    WHITENER_UNIT,
    DepthOrder,
    P,
    R,
    bucket_of,
    octave_bits,
)
from core.types.gaussians import Gaussians
from smpl_renderer.load_store import load3, store3, store4

BLOCK = 64  # Gaussians per program

# In products, tensors come before these constants: in the other order, the interpreter of Triton 3.9 gives a constant.
NEAR_PLANE = tl.constexpr(projection.NEAR_PLANE)
DILATION = tl.constexpr(projection.DILATION)
ALPHA_MIN = tl.constexpr(projection.ALPHA_MIN)
MARGIN = tl.constexpr(projection.FRUSTUM_MARGIN)
UNIT = tl.constexpr(WHITENER_UNIT)


@triton.jit
def _rotate(rotation, x, y, z):
    """Matrix times vector; a matrix is a tuple of its nine entries in row-major order."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = rotation
    return m00 * x + m01 * y + m02 * z, m10 * x + m11 * y + m12 * z, m20 * x + m21 * y + m22 * z


@triton.jit
def _rotate_transposed(rotation, x, y, z):
    """Transposed matrix times vector."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = rotation
    return m00 * x + m10 * y + m20 * z, m01 * x + m11 * y + m21 * z, m02 * x + m12 * y + m22 * z


@triton.jit
def _load_camera(viewmats, Ks, view):
    """Rotation, translation and (fx, fy, cx, cy)."""
    m, k = viewmats + view * 16, Ks + view * 9
    rotation = (
        tl.load(m), tl.load(m + 1), tl.load(m + 2),
        tl.load(m + 4), tl.load(m + 5), tl.load(m + 6),
        tl.load(m + 8), tl.load(m + 9), tl.load(m + 10),
    )  # fmt: skip
    translation = (tl.load(m + 3), tl.load(m + 7), tl.load(m + 11))
    return rotation, translation, (tl.load(k), tl.load(k + 4), tl.load(k + 2), tl.load(k + 5))


@triton.jit
def _load_rotation(quats, i, mask):
    """Unit quaternion (w, x, y, z), its length before normalisation, and its rotation matrix."""
    w = tl.load(quats + i * 4, mask, 1.0)
    x, y, z = load3(quats + i * 4 + 1, mask)
    length = tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / length, x / length, y / length, z / length
    matrix = (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )
    return (w, x, y, z), length, matrix


@triton.jit
def _center(camera, mean_x, mean_y, mean_z, width, height):
    """True where the centre is in front of the camera; its depth, x / z and y / z, and these clamped for J."""
    rotation, translation, intrinsics = camera
    fx, fy, cx, cy = intrinsics
    x, y, z = _rotate(rotation, mean_x, mean_y, mean_z)
    x, y, z = x + translation[0], y + translation[1], z + translation[2]
    in_front = z > NEAR_PLANE
    x, y, z = tl.where(in_front, x, 0.0), tl.where(in_front, y, 0.0), tl.where(in_front, z, 1.0)
    tan_x, tan_y = x / z, y / z
    clamped_x = tl.minimum(tl.maximum(tan_x, (width * -MARGIN - cx) / fx), (width * (1 + MARGIN) - cx) / fx)
    clamped_y = tl.minimum(tl.maximum(tan_y, (height * -MARGIN - cy) / fy), (height * (1 + MARGIN) - cy) / fy)
    return in_front, z, tan_x, tan_y, clamped_x, clamped_y


@triton.jit
def _project_axis(view_rotation, axis_x, axis_y, axis_z, scale, gain_x, gain_y, clamped_x, clamped_y):
    """Depth component in camera space and image (u, v) in pixels of one principal axis of a Gaussian.

    The axis is a column of the rotation matrix; `scale` is the standard deviation along it.
    """
    x, y, z = _rotate(view_rotation, axis_x * scale, axis_y * scale, axis_z * scale)
    return z, gain_x * (x - clamped_x * z), gain_y * (y - clamped_y * z)


@triton.jit
def _covariance(u0, u1, u2, v0, v1, v2):
    """Entries uu, uv, vv of the covariance; square roots of its dilated determinant and of its dilated vv."""
    uu, uv, vv = u0 * u0 + u1 * u1 + u2 * u2, u0 * v0 + u1 * v1 + u2 * v2, v0 * v0 + v1 * v1 + v2 * v2
    n0, n1, n2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
    area = tl.sqrt(n0 * n0 + n1 * n1 + n2 * n2 + (uu + vv) * DILATION + DILATION * DILATION)
    return uu, uv, vv, area, tl.sqrt(vv + DILATION)


@triton.jit(do_not_specialize=["count", "num_cameras", "width", "height"])
def _fwd_kernel(
    means, quats, scales, opacities, colors, viewmats, Ks, table, keys, sizes, heads, nexts,
    count, num_cameras, width, height, LINKED: tl.constexpr, OCTAVE_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Project a block of Gaussians to one view. LINKED: also build the lists of `DepthOrder.heads`."""
    view = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i = view // num_cameras * count + n
    opacity = tl.load(opacities + i, mask, 0.0)
    if not LINKED:  # noqa: SIM102  constant: the other condition is not compiled then
        if tl.max((opacity >= ALPHA_MIN).to(tl.int32), 0) == 0:  # padding: nothing but the opacities is read
            tl.store(table + (view * count + n) * STRIDE + LOG2_OPACITY, float("-inf"), mask)
            tl.store(keys + view * count + n, NOT_DRAWN, mask)
            base = tl.atomic_add(_last_bucket(sizes, view, OCTAVE_BITS), tl.sum(mask.to(tl.int32), 0), sem="relaxed")
            tl.store(nexts + view * count + n, base + tl.arange(0, BLOCK), mask)
            return
    camera = _load_camera(viewmats, Ks, view)
    rotation, _, intrinsics = camera
    fx, fy, cx, cy = intrinsics

    mean_x, mean_y, mean_z = load3(means + i * 3, mask)
    in_front, z, tan_x, tan_y, clamped_x, clamped_y = _center(camera, mean_x, mean_y, mean_z, width, height)
    _, _, m = _load_rotation(quats, i, mask)
    s0, s1, s2 = load3(scales + i * 3, mask)
    _, u0, v0 = _project_axis(rotation, m[0], m[3], m[6], s0, fx / z, fy / z, clamped_x, clamped_y)
    _, u1, v1 = _project_axis(rotation, m[1], m[4], m[7], s1, fx / z, fy / z, clamped_x, clamped_y)
    _, u2, v2 = _project_axis(rotation, m[2], m[5], m[8], s2, fx / z, fy / z, clamped_x, clamped_y)
    _, uv, _, area, sigma_y = _covariance(u0, u1, u2, v0, v1, v2)

    drawn = in_front & (opacity >= ALPHA_MIN)
    red, green, blue = load3(colors + i * 3, mask)
    splat = table + (view * count + n) * STRIDE
    # In the order of the columns, four at a time: single values would be written to memory sector by sector.
    p, q = sigma_y * UNIT / area, uv * -UNIT / (sigma_y * area)
    store4(splat, fx * tan_x + cx, fy * tan_y + cy, p, q, mask, BLOCK)
    log2_opacity = tl.where(drawn, tl.log2(tl.maximum(opacity, ALPHA_MIN)), float("-inf"))
    store4(splat + R, 1.0 / sigma_y * UNIT, log2_opacity, z, 0.0 * z, mask, BLOCK)
    # Splats that are not drawn may have any colour, and compositing reads them when the lists overflow.
    red, green, blue = tl.where(drawn, red, 0.0), tl.where(drawn, green, 0.0), tl.where(drawn, blue, 0.0)
    store4(splat + RED, red, green, blue, 0.0 * z, mask, BLOCK)

    m = viewmats + view * 16 + 8
    depth = (
        mean_x.to(tl.float64) * tl.load(m).to(tl.float64)
        + mean_y.to(tl.float64) * tl.load(m + 1).to(tl.float64)
        + mean_z.to(tl.float64) * tl.load(m + 2).to(tl.float64)
        + tl.load(m + 3).to(tl.float64)
    )
    key = tl.where(drawn, depth.to(tl.int64, bitcast=True), NOT_DRAWN)
    tl.store(keys + view * count + n, key, mask)
    bucket = view * (OCTAVES << OCTAVE_BITS) + bucket_of(key, OCTAVE_BITS)
    if LINKED:
        arrival = tl.atomic_add(sizes + bucket, 1, mask, sem="relaxed")
        head = tl.atomic_xchg(heads + bucket, n + 1, mask & drawn, sem="relaxed")
        tl.store(nexts + view * count + n, tl.where(drawn, head, arrival), mask)
    else:
        # One addition for all splats that are not drawn: thousands to one address would follow each other.
        tl.atomic_add(sizes + bucket, 1, mask & drawn, sem="relaxed")
        others = (mask & (key == NOT_DRAWN)).to(tl.int32)
        base = tl.atomic_add(_last_bucket(sizes, view, OCTAVE_BITS), tl.sum(others, 0), sem="relaxed")
        tl.store(nexts + view * count + n, base + tl.cumsum(others, 0) - others, others > 0)


@triton.jit
def _last_bucket(sizes, view, OCTAVE_BITS: tl.constexpr):
    """Where the splats of a view that are not drawn are counted."""
    return sizes + (view + 1) * (OCTAVES << OCTAVE_BITS) - 1


@triton.jit(do_not_specialize=["count", "num_cameras", "width", "height"])
def _bwd_kernel(
    means, quats, scales, opacities, viewmats, Ks, g_table, g_means, g_quats, g_scales, g_opacities, g_colors,
    count, num_cameras, width, height, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program sums the gradients of a block of Gaussians over the cameras: no atomics, and a fixed order.

    ADD: the sums are added to those of other cameras, which are zero for padding.
    """
    subject = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i = subject * count + n
    opacity = tl.load(opacities + i, mask, 0.0)
    if tl.max((opacity >= ALPHA_MIN).to(tl.int32), 0) == 0:  # padding has no gradients, and may have any values
        if not ADD:
            zero = tl.zeros([BLOCK], tl.float32)
            store3(g_means + i * 3, zero, zero, zero, mask)
            tl.store(g_quats + i * 4, zero, mask)
            store3(g_quats + i * 4 + 1, zero, zero, zero, mask)
            store3(g_scales + i * 3, zero, zero, zero, mask)
            tl.store(g_opacities + i, zero, mask)
            store3(g_colors + i * 3, zero, zero, zero, mask)
        return
    mean_x, mean_y, mean_z = load3(means + i * 3, mask)
    quat, length, m = _load_rotation(quats, i, mask)
    s0, s1, s2 = load3(scales + i * 3, mask)
    zero = tl.zeros([BLOCK], tl.float32)
    gm_x, gm_y, gm_z = zero, zero, zero  # mean
    g00, g10, g20, g01, g11, g21, g02, g12, g22 = zero, zero, zero, zero, zero, zero, zero, zero, zero  # scaled axes
    g_log2_opacity, g_red, g_green, g_blue = zero, zero, zero, zero

    view = subject * num_cameras
    while view < (subject + 1) * num_cameras:
        camera = _load_camera(viewmats, Ks, view)
        rotation, _, intrinsics = camera
        fx, fy, _, _ = intrinsics
        in_front, z, tan_x, tan_y, clamped_x, clamped_y = _center(camera, mean_x, mean_y, mean_z, width, height)
        gain_x, gain_y = fx / z, fy / z
        z0, u0, v0 = _project_axis(rotation, m[0], m[3], m[6], s0, gain_x, gain_y, clamped_x, clamped_y)
        z1, u1, v1 = _project_axis(rotation, m[1], m[4], m[7], s1, gain_x, gain_y, clamped_x, clamped_y)
        z2, u2, v2 = _project_axis(rotation, m[2], m[5], m[8], s2, gain_x, gain_y, clamped_x, clamped_y)
        uu, uv, vv, area, sigma_y = _covariance(u0, u1, u2, v0, v1, v2)

        g_splat = g_table + (view * count + n) * STRIDE
        g_log2_opacity += tl.load(g_splat + LOG2_OPACITY, mask, 0.0)
        red, green, blue = load3(g_splat + RED, mask)
        g_red, g_green, g_blue = g_red + red, g_green + green, g_blue + blue

        # Whitener p = sigma_y / area, q = -uv / (sigma_y area), r = 1 / sigma_y, to uv, vv and the determinant area^2.
        g_p, g_q, g_r = load3(g_splat + P, mask)
        g_p, g_q, g_r = g_p * UNIT, g_q * UNIT, g_r * UNIT
        p, q, r = sigma_y / area, -uv / (sigma_y * area), 1 / sigma_y
        g_uv = -g_q * r / area
        g_vv = 0.5 * r * (g_p / area - g_q * q * r - g_r * r * r)
        g_det = -0.5 * (g_p * p + g_q * q) / (area * area)
        # To u and v: det = |u x v|^2 + D (uu + vv) + D^2, and v x (u x v) = vv u - uv v.
        k_u, k_v, k_uv = 2 * g_det * (vv + DILATION), 2 * (g_det * (uu + DILATION) + g_vv), g_uv - 2 * g_det * uv
        g_u0, g_u1, g_u2 = k_u * u0 + k_uv * v0, k_u * u1 + k_uv * v1, k_u * u2 + k_uv * v2
        g_v0, g_v1, g_v2 = k_v * v0 + k_uv * u0, k_v * v1 + k_uv * u1, k_v * v2 + k_uv * u2
        # To the rotated axes, the tangents and the centre: u = fx / z (x_axis - clamped_x z_axis), and v alike.
        g_clamped_x = -gain_x * (g_u0 * z0 + g_u1 * z1 + g_u2 * z2)
        g_clamped_y = -gain_y * (g_v0 * z0 + g_v1 * z1 + g_v2 * z2)
        g_tan_x = fx * tl.load(g_splat + MEAN_X, mask, 0.0) + tl.where(clamped_x == tan_x, g_clamped_x, 0.0)
        g_tan_y = fy * tl.load(g_splat + MEAN_Y, mask, 0.0) + tl.where(clamped_y == tan_y, g_clamped_y, 0.0)
        g_gains = g_u0 * u0 + g_u1 * u1 + g_u2 * u2 + g_v0 * v0 + g_v1 * v1 + g_v2 * v2
        g_z = tl.load(g_splat + DEPTH, mask, 0.0) - (g_gains + g_tan_x * tan_x + g_tan_y * tan_y) / z
        d_x, d_y, d_z = _rotate_transposed(rotation, g_tan_x / z, g_tan_y / z, g_z)
        gm_x += tl.where(in_front, d_x, 0.0)
        gm_y += tl.where(in_front, d_y, 0.0)
        gm_z += tl.where(in_front, d_z, 0.0)
        d_x, d_y, d_z = _axis_gradient(rotation, g_u0, g_v0, gain_x, gain_y, clamped_x, clamped_y)
        g00, g10, g20 = g00 + d_x, g10 + d_y, g20 + d_z
        d_x, d_y, d_z = _axis_gradient(rotation, g_u1, g_v1, gain_x, gain_y, clamped_x, clamped_y)
        g01, g11, g21 = g01 + d_x, g11 + d_y, g21 + d_z
        d_x, d_y, d_z = _axis_gradient(rotation, g_u2, g_v2, gain_x, gain_y, clamped_x, clamped_y)
        g02, g12, g22 = g02 + d_x, g12 + d_y, g22 + d_z
        view += 1

    _put3(g_means + i * 3, gm_x, gm_y, gm_z, mask, ADD)
    _put3(g_colors + i * 3, g_red, g_green, g_blue, mask, ADD)
    # Opacities below ALPHA_MIN have gradient 0 in the table; the bound avoids 0 / 0.
    opacity = tl.maximum(opacity, ALPHA_MIN)
    _put(g_opacities + i, g_log2_opacity / (opacity * LN_2), mask, ADD)
    _put3(
        g_scales + i * 3,
        g00 * m[0] + g10 * m[3] + g20 * m[6],
        g01 * m[1] + g11 * m[4] + g21 * m[7],
        g02 * m[2] + g12 * m[5] + g22 * m[8],
        mask,
        ADD,
    )
    g00, g10, g20 = g00 * s0, g10 * s0, g20 * s0
    g01, g11, g21 = g01 * s1, g11 * s1, g21 * s1
    g02, g12, g22 = g02 * s2, g12 * s2, g22 * s2
    w, x, y, z = quat
    g_w = 2 * (x * (g21 - g12) + y * (g02 - g20) + z * (g10 - g01))
    g_x = 2 * (w * (g21 - g12) + y * (g01 + g10) + z * (g02 + g20) - 2 * x * (g11 + g22))
    g_y = 2 * (w * (g02 - g20) + x * (g01 + g10) + z * (g12 + g21) - 2 * y * (g00 + g22))
    g_z = 2 * (w * (g10 - g01) + x * (g02 + g20) + y * (g12 + g21) - 2 * z * (g00 + g11))
    radial = w * g_w + x * g_x + y * g_y + z * g_z  # the length of a quaternion has no gradient
    g_w, g_x, g_y, g_z = g_w - w * radial, g_x - x * radial, g_y - y * radial, g_z - z * radial
    _put(g_quats + i * 4, g_w / length, mask, ADD)
    _put3(g_quats + i * 4 + 1, g_x / length, g_y / length, g_z / length, mask, ADD)


@triton.jit
def _put(pointers, values, mask, ADD: tl.constexpr):
    """Store values; ADD: add them to what is there."""
    if ADD:
        values += tl.load(pointers, mask, 0.0)
    tl.store(pointers, values, mask)


@triton.jit
def _put3(pointers, a, b, c, mask, ADD: tl.constexpr):
    _put(pointers, a, mask, ADD)
    _put(pointers + 1, b, mask, ADD)
    _put(pointers + 2, c, mask, ADD)


@triton.jit
def _axis_gradient(view_rotation, g_u, g_v, gain_x, gain_y, clamped_x, clamped_y):
    """Adjoint of `_project_axis`: the gradient of the scaled axis in the world frame."""
    g_x, g_y = gain_x * g_u, gain_y * g_v
    return _rotate_transposed(view_rotation, g_x, g_y, -clamped_x * g_x - clamped_y * g_y)


_launch_fwd, _launch_bwd = (Launcher(kernel, num_warps=2) for kernel in (_fwd_kernel, _bwd_kernel))


def project(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
    linked: bool = True,
) -> tuple[Float[Tensor, "*batch C N 12"], DepthOrder]:
    """Splat table and depth order of every view. All tensors are `aligned` float32.

    Args:
        linked: Fill in `DepthOrder.heads`. Without, entries of Gaussians that are not drawn hold no more than their
            opacity.
    """
    views, count = viewmats.shape[:-2], gaussians.count
    num_views, num_cameras = views.numel(), views[-1]
    table = viewmats.new_empty(*views, count, STRIDE.value)
    keys = torch.empty(*views, count, dtype=torch.int64, device=viewmats.device)
    nexts = torch.empty(*views, count, dtype=torch.int32, device=viewmats.device)
    bits = octave_bits(count)
    sizes, *heads = torch.zeros(1 + linked, num_views, OCTAVES.value << bits, dtype=torch.int32, device=keys.device)
    heads = heads[0] if linked else None
    g = gaussians
    _launch_fwd(
        (num_views, triton.cdiv(count, BLOCK)),
        *(g.means, g.quats, g.scales, g.opacities, g.colors, viewmats, Ks, table, keys, sizes),
        *(heads if linked else sizes, nexts, count, num_cameras, width, height),
        constants=(linked, bits, BLOCK),
    )
    return table, DepthOrder(keys, sizes, heads, nexts)


def project_backward(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
    grad_table: Float[Tensor, "*batch C N 12"],
    out: Gaussians | None = None,
    add: bool = False,
) -> Gaussians:
    """Gradients of the Gaussians, given that of their splat table. All tensors are `aligned` float32.

    Args:
        out: Where to write them; by default new tensors.
        add: Add them to `out`, which holds those from other cameras.
    """
    num_cameras, count = viewmats.shape[-3], gaussians.count
    g, grads = gaussians, gaussians.map(torch.empty_like) if out is None else out
    _launch_bwd(
        (gaussians.batch_shape.numel(), triton.cdiv(count, BLOCK)),
        *(g.means, g.quats, g.scales, g.opacities, viewmats, Ks, grad_table),
        *(grads.means, grads.quats, grads.scales, grads.opacities, grads.colors),
        *(count, num_cameras, width, height),
        constants=(add, BLOCK),
    )
    return grads
