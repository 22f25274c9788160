"""Projection of Gaussians into cameras for backend `numba`. Definition: `core/render/projection.py`, with its names."""

import math

import numpy as np

from core.render.numba_common import (
    ALPHA_MIN,
    BLUE,
    CUT,
    DEPTH,
    DILATION,
    GREEN,
    LOG2_OPACITY,
    MARGIN,
    MEAN_X,
    MEAN_Y,
    NEAR_PLANE,
    RED,
    UNIT,
    P,
    Q,
    R,
    compiled,
    inlined,
)

F = np.float32
LOG2_E, LN_2, LOG2_ALPHA_MIN = F(math.log2(math.e)), F(math.log(2)), F(math.log2(ALPHA_MIN))
EPS = F(1e-12)  # smallest length of a quaternion, as in `torch.nn.functional.normalize`


@inlined
def _rotation(quats, i):
    """Unit quaternion (w, x, y, z), its length before normalisation, and its matrix in row-major order."""
    w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
    length = max(math.sqrt(w * w + x * x + y * y + z * z), EPS)
    w, x, y, z = w / length, x / length, y / length, z / length
    one, two = F(1), F(2)
    matrix = (
        one - two * (y * y + z * z),
        two * (x * y - w * z),
        two * (x * z + w * y),
        two * (x * y + w * z),
        one - two * (x * x + z * z),
        two * (y * z - w * x),
        two * (x * z - w * y),
        two * (y * z + w * x),
        one - two * (x * x + y * y),
    )
    return (w, x, y, z), length, matrix


@inlined
def _center(mean_x, mean_y, mean_z, view, K, width, height):
    """Depth, x / z and y / z of a centre, and these clamped for J; depth 0 if it is not in front of the camera."""
    z = view[2, 0] * mean_x + view[2, 1] * mean_y + view[2, 2] * mean_z + view[2, 3]
    if not z > NEAR_PLANE:
        return F(0), F(0), F(0), F(0), F(0)
    tan_x = (view[0, 0] * mean_x + view[0, 1] * mean_y + view[0, 2] * mean_z + view[0, 3]) / z
    tan_y = (view[1, 0] * mean_x + view[1, 1] * mean_y + view[1, 2] * mean_z + view[1, 3]) / z
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    low_x, high_x = (-MARGIN * F(width) - cx) / fx, ((F(1) + MARGIN) * F(width) - cx) / fx
    low_y, high_y = (-MARGIN * F(height) - cy) / fy, ((F(1) + MARGIN) * F(height) - cy) / fy
    return z, tan_x, tan_y, min(max(tan_x, low_x), high_x), min(max(tan_y, low_y), high_y)


@inlined
def _axis(view, axis_x, axis_y, axis_z, gain_x, gain_y, tan_x, tan_y):
    """Depth component in camera space and image (u, v) in pixels of a principal axis of a Gaussian."""
    x = view[0, 0] * axis_x + view[0, 1] * axis_y + view[0, 2] * axis_z
    y = view[1, 0] * axis_x + view[1, 1] * axis_y + view[1, 2] * axis_z
    z = view[2, 0] * axis_x + view[2, 1] * axis_y + view[2, 2] * axis_z
    return z, gain_x * (x - tan_x * z), gain_y * (y - tan_y * z)


@inlined
def _covariance(u0, u1, u2, v0, v1, v2):
    """Entry uv of the covariance, minors u x v, and square roots of its dilated determinant and dilated vv."""
    uu, uv, vv = u0 * u0 + u1 * u1 + u2 * u2, u0 * v0 + u1 * v1 + u2 * v2, v0 * v0 + v1 * v1 + v2 * v2
    n0, n1, n2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
    area = math.sqrt(n0 * n0 + n1 * n1 + n2 * n2 + (uu + vv) * DILATION + DILATION * DILATION)
    return uv, (n0, n1, n2), area, math.sqrt(vv + DILATION)


@compiled
def project(means, quats, scales, opacities, colors, view, K, width, height, first, last, table):
    """Write the entries of Gaussians `first` to `last` for one camera.

    Args:
        means, quats, scales, opacities, colors: Gaussians [N].
        view, K: World to camera [4, 4], intrinsics [3, 3].
        table: Output [N, 12].
    """
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    for i in range(first, last):
        opacity = opacities[i]
        z, tan_x, tan_y, near_x, near_y = _center(means[i, 0], means[i, 1], means[i, 2], view, K, width, height)
        table[i, CUT] = F(-1)
        if not (z > F(0) and opacity >= ALPHA_MIN):
            continue
        _, _, m = _rotation(quats, i)
        s0, s1, s2 = scales[i, 0], scales[i, 1], scales[i, 2]
        gain_x, gain_y = fx / z, fy / z
        _, u0, v0 = _axis(view, m[0] * s0, m[3] * s0, m[6] * s0, gain_x, gain_y, near_x, near_y)
        _, u1, v1 = _axis(view, m[1] * s1, m[4] * s1, m[7] * s1, gain_x, gain_y, near_x, near_y)
        _, u2, v2 = _axis(view, m[2] * s2, m[5] * s2, m[8] * s2, gain_x, gain_y, near_x, near_y)
        uv, _, area, sigma_y = _covariance(u0, u1, u2, v0, v1, v2)
        log2_opacity = F(math.log2(opacity))
        table[i, MEAN_X] = fx * tan_x + cx
        table[i, MEAN_Y] = fy * tan_y + cy
        table[i, P] = sigma_y * UNIT / area
        table[i, Q] = -uv * UNIT / (sigma_y * area)
        table[i, R] = UNIT / sigma_y
        table[i, LOG2_OPACITY] = log2_opacity
        table[i, DEPTH] = z
        table[i, CUT] = max(log2_opacity - LOG2_ALPHA_MIN, F(0))
        table[i, RED], table[i, GREEN], table[i, BLUE] = colors[i, 0], colors[i, 1], colors[i, 2]


@compiled
def project_backward(
    means, quats, scales, opacities, views, Ks, width, height, grad_table, first, last,
    g_means, g_quats, g_scales, g_opacities, g_colors,
):  # fmt: skip
    """Write the gradients of Gaussians `first` to `last` of a set, summed over its C cameras.

    Args:
        means, quats, scales, opacities: Gaussians [N].
        views, Ks: Cameras [C, 4, 4], [C, 3, 3].
        grad_table: Gradients of the table's columns [C, N, 9] from MEAN_X to LOG2_OPACITY, and of the colours.
        g_means, g_quats, g_scales, g_opacities, g_colors: Outputs [N].
    """
    zero, two = F(0), F(2)
    for i in range(first, last):
        (w, x, y, z), length, m = _rotation(quats, i)
        s0, s1, s2 = scales[i, 0], scales[i, 1], scales[i, 2]
        gm_x, gm_y, gm_z = zero, zero, zero  # mean
        a0, a1, a2, b0, b1, b2, c0, c1, c2 = zero, zero, zero, zero, zero, zero, zero, zero, zero  # scaled axes
        g_opacity, red, green, blue = zero, zero, zero, zero
        for c in range(len(views)):
            view, K, g = views[c], Ks[c], grad_table[c, i]
            depth, tan_x, tan_y, near_x, near_y = _center(means[i, 0], means[i, 1], means[i, 2], view, K, width, height)
            if not (depth > zero and opacities[i] >= ALPHA_MIN):
                continue
            fx, fy = K[0, 0], K[1, 1]
            gain_x, gain_y = fx / depth, fy / depth
            z0, u0, v0 = _axis(view, m[0] * s0, m[3] * s0, m[6] * s0, gain_x, gain_y, near_x, near_y)
            z1, u1, v1 = _axis(view, m[1] * s1, m[4] * s1, m[7] * s1, gain_x, gain_y, near_x, near_y)
            z2, u2, v2 = _axis(view, m[2] * s2, m[5] * s2, m[8] * s2, gain_x, gain_y, near_x, near_y)
            uv, (n0, n1, n2), area, sigma_y = _covariance(u0, u1, u2, v0, v1, v2)
            g_opacity += g[5]
            red, green, blue = red + g[6], green + g[7], blue + g[8]

            # p = sigma_y / area, q = -uv / (sigma_y area), r = 1 / sigma_y, to uv, vv and the determinant area^2.
            g_p, g_q, g_r = g[P] * UNIT, g[Q] * UNIT, g[R] * UNIT
            p, q, r = sigma_y / area, -uv / (sigma_y * area), F(1) / sigma_y
            g_uv = -g_q * r / area
            g_vv = F(0.5) * r * (g_p / area - g_q * q * r - g_r * r * r)
            g_det = F(-0.5) * (g_p * p + g_q * q) / (area * area)
            # To u and v: det = |n|^2 + D (uu + vv) + D^2 with n = u x v, whose derivatives are 2 v x n and 2 n x u.
            # (In terms of uu, uv and vv, these would be small differences of large numbers for thin splats.)
            k = two * g_det
            k_u, k_v = k * DILATION, k * DILATION + two * g_vv
            g_u0 = k * (v1 * n2 - v2 * n1) + k_u * u0 + g_uv * v0
            g_u1 = k * (v2 * n0 - v0 * n2) + k_u * u1 + g_uv * v1
            g_u2 = k * (v0 * n1 - v1 * n0) + k_u * u2 + g_uv * v2
            g_v0 = k * (n1 * u2 - n2 * u1) + k_v * v0 + g_uv * u0
            g_v1 = k * (n2 * u0 - n0 * u2) + k_v * v1 + g_uv * u1
            g_v2 = k * (n0 * u1 - n1 * u0) + k_v * v2 + g_uv * u2
            # To the tangents and the centre: u = fx / z (x_axis - near_x z_axis), and v alike.
            g_tan_x, g_tan_y = fx * g[MEAN_X], fy * g[MEAN_Y]
            if near_x == tan_x:
                g_tan_x -= gain_x * (g_u0 * z0 + g_u1 * z1 + g_u2 * z2)
            if near_y == tan_y:
                g_tan_y -= gain_y * (g_v0 * z0 + g_v1 * z1 + g_v2 * z2)
            g_gains = g_u0 * u0 + g_u1 * u1 + g_u2 * u2 + g_v0 * v0 + g_v1 * v1 + g_v2 * v2
            g_z = -(g_gains + g_tan_x * tan_x + g_tan_y * tan_y) / depth
            g_x, g_y = g_tan_x / depth, g_tan_y / depth
            gm_x += view[0, 0] * g_x + view[1, 0] * g_y + view[2, 0] * g_z
            gm_y += view[0, 1] * g_x + view[1, 1] * g_y + view[2, 1] * g_z
            gm_z += view[0, 2] * g_x + view[1, 2] * g_y + view[2, 2] * g_z
            # To the scaled axes in the world frame.
            d0, d1, d2 = _axis_gradient(view, g_u0 * gain_x, g_v0 * gain_y, near_x, near_y)
            a0, a1, a2 = a0 + d0, a1 + d1, a2 + d2
            d0, d1, d2 = _axis_gradient(view, g_u1 * gain_x, g_v1 * gain_y, near_x, near_y)
            b0, b1, b2 = b0 + d0, b1 + d1, b2 + d2
            d0, d1, d2 = _axis_gradient(view, g_u2 * gain_x, g_v2 * gain_y, near_x, near_y)
            c0, c1, c2 = c0 + d0, c1 + d1, c2 + d2

        g_means[i, 0], g_means[i, 1], g_means[i, 2] = gm_x, gm_y, gm_z
        g_colors[i, 0], g_colors[i, 1], g_colors[i, 2] = red, green, blue
        g_opacities[i] = g_opacity * LOG2_E / max(opacities[i], ALPHA_MIN)
        g_scales[i, 0] = a0 * m[0] + a1 * m[3] + a2 * m[6]
        g_scales[i, 1] = b0 * m[1] + b1 * m[4] + b2 * m[7]
        g_scales[i, 2] = c0 * m[2] + c1 * m[5] + c2 * m[8]
        _quat_gradient(
            w, x, y, z, length, a0 * s0, a1 * s0, a2 * s0, b0 * s1, b1 * s1, b2 * s1, c0 * s2, c1 * s2, c2 * s2,
            g_quats, i,
        )  # fmt: skip


@inlined
def _axis_gradient(view, g_x, g_y, near_x, near_y):
    """Adjoint of `_axis`: the gradient of the scaled axis in the world frame."""
    g_z = -near_x * g_x - near_y * g_y
    return (
        view[0, 0] * g_x + view[1, 0] * g_y + view[2, 0] * g_z,
        view[0, 1] * g_x + view[1, 1] * g_y + view[2, 1] * g_z,
        view[0, 2] * g_x + view[1, 2] * g_y + view[2, 2] * g_z,
    )


@inlined
def _quat_gradient(w, x, y, z, length, m00, m10, m20, m01, m11, m21, m02, m12, m22, g_quats, i):
    """Write the gradient of a quaternion, given that of its matrix. Its length has no gradient."""
    two = F(2)
    g_w = two * (x * (m21 - m12) + y * (m02 - m20) + z * (m10 - m01))
    g_x = two * (w * (m21 - m12) + y * (m01 + m10) + z * (m02 + m20) - two * x * (m11 + m22))
    g_y = two * (w * (m02 - m20) + x * (m01 + m10) + z * (m12 + m21) - two * y * (m00 + m22))
    g_z = two * (w * (m10 - m01) + x * (m02 + m20) + y * (m12 + m21) - two * z * (m00 + m11))
    radial = w * g_w + x * g_x + y * g_y + z * g_z
    g_quats[i, 0] = (g_w - w * radial) / length
    g_quats[i, 1] = (g_x - x * radial) / length
    g_quats[i, 2] = (g_y - y * radial) / length
    g_quats[i, 3] = (g_z - z * radial) / length
