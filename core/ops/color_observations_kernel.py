"""Observations of Gaussians in the input images, in two launches: depth buffers, then one lookup per Gaussian and view.

Reference: `observe_reference` in `core/ops/color_observations.py`, which has the same names.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from core.ops import color_sampling_constants as constants
from core.types.frames import Frames
from core.types.gaussians import Gaussians
from smpl_renderer.load_store import load3, store3

BLOCK = 64  # Gaussians per program, which visits all views of its subject
WARPS = 2

# In a product, a tensor stands before such a constant: in the other order, the interpreter of Triton 3.9 makes a
# constant of both.
NEAR = tl.constexpr(constants.NEAR)
MIN_COSINE = tl.constexpr(constants.MIN_COSINE)
OCCLUDER_OPACITY = tl.constexpr(constants.OCCLUDER_OPACITY)
LEAST_SLACK, MOST_SLACK = (tl.constexpr(x) for x in constants.DEPTH_SLACK)
PIXEL_UNIT = tl.constexpr(constants.PIXEL_UNIT)
CELLS = tl.constexpr(constants.ZBUFFER_SIZE)
COVERAGE = tl.constexpr(constants.COVERAGE)
COSINE = tl.constexpr(constants.COSINE)
DEPTH_BEHIND = tl.constexpr(constants.DEPTH_BEHIND)
LOG_SIZE = tl.constexpr(constants.LOG_SIZE)
VISIBLE = tl.constexpr(constants.VISIBLE)
NUM_FEATURES = tl.constexpr(constants.NUM_FEATURES)
FAR = tl.constexpr(0x7F7FFFFF)  # bits of the largest float; positive floats are ordered as their bits are


@triton.jit
def _project(viewmats, Ks, view, x, y, z, width, height):
    """Pixel position, depth, and whether it lies in the image, of world points."""
    m, k = viewmats + view * 16, Ks + view * 9
    in_x = tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2) * z + tl.load(m + 3)
    in_y = tl.load(m + 4) * x + tl.load(m + 5) * y + tl.load(m + 6) * z + tl.load(m + 7)
    depth = tl.load(m + 8) * x + tl.load(m + 9) * y + tl.load(m + 10) * z + tl.load(m + 11)
    safe = tl.where(depth > NEAR, depth, 1.0)
    u = (tl.load(k) * in_x + tl.load(k + 1) * in_y) / safe + tl.load(k + 2)
    v = tl.load(k + 4) * in_y / safe + tl.load(k + 5)
    inside = (depth > NEAR) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
    return tl.where(inside, u, 0.0), tl.where(inside, v, 0.0), depth, inside


@triton.jit
def _cell(u, v, width, height):
    column = tl.minimum((u / width * CELLS).to(tl.int32), CELLS - 1)
    row = tl.minimum((v / height * CELLS).to(tl.int32), CELLS - 1)
    return column, row


@triton.jit
def _depth_kernel(
    means, opacities, viewmats, Ks, buffers, count, num_frames, num_views, width, height, BLOCK: tl.constexpr
):
    frame = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    x, y, z = load3(means + (frame * count + n) * 3, mask)
    opacity = tl.load(opacities + frame // num_frames * count + n, mask, 0.0)
    occludes = mask & (opacity > OCCLUDER_OPACITY)
    view = frame * num_views
    while view < (frame + 1) * num_views:
        u, v, depth, inside = _project(viewmats, Ks, view, x, y, z, width, height)
        column, row = _cell(u, v, width, height)
        cells = buffers + view * CELLS * CELLS + row * CELLS + column
        tl.atomic_min(cells, depth.to(tl.int32, bitcast=True), inside & occludes, sem="relaxed")
        view += 1


@triton.jit
def _surface_depth(buffer, u, v, width, height):
    """Minimum depth of 3 x 3 cells."""
    column, row = _cell(u, v, width, height)
    least = tl.load(buffer + row * CELLS + column)
    for i in tl.static_range(9):
        near_row = tl.minimum(tl.maximum(row + (i // 3 - 1), 0), CELLS - 1)
        near_column = tl.minimum(tl.maximum(column + (i % 3 - 1), 0), CELLS - 1)
        least = tl.minimum(least, tl.load(buffer + near_row * CELLS + near_column))
    return least.to(tl.float32, bitcast=True)


@triton.jit
def _camera_center(m):
    """World position of the camera with the view matrix at `m`."""
    t_x, t_y, t_z = tl.load(m + 3), tl.load(m + 7), tl.load(m + 11)
    x = tl.load(m) * t_x + tl.load(m + 4) * t_y + tl.load(m + 8) * t_z
    y = tl.load(m + 1) * t_x + tl.load(m + 5) * t_y + tl.load(m + 9) * t_z
    z = tl.load(m + 2) * t_x + tl.load(m + 6) * t_y + tl.load(m + 10) * t_z
    return -x, -y, -z


@triton.jit
def _bilinear(image, corners, fractions, mask):
    """Interpolate between the four pixels at the offsets `corners` from `image`."""
    upper_left, upper_right, lower_left, lower_right = corners
    right_weight, lower_weight = fractions
    top_left, top_right = tl.load(image + upper_left, mask, 0.0), tl.load(image + upper_right, mask, 0.0)
    bottom_left, bottom_right = tl.load(image + lower_left, mask, 0.0), tl.load(image + lower_right, mask, 0.0)
    upper = top_left * (1 - right_weight) + top_right * right_weight
    lower = bottom_left * (1 - right_weight) + bottom_right * right_weight
    return upper * (1 - lower_weight) + lower * lower_weight


@triton.jit
def _observe_kernel(
    means, opacities, vertex_ids, rotations, normals, images, alphas, most_alpha, viewmats, Ks, buffers,
    features, consensus, outsides, count, num_vertices, num_frames, num_views, width, height, BLOCK: tl.constexpr,
):  # fmt: skip
    subject = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    opacity = tl.load(opacities + subject * count + n, mask, 0.0)
    vertex = tl.load(vertex_ids + subject * count + n, mask, 0)
    normal_x, normal_y, normal_z = load3(normals + vertex * 3, mask)
    zero = tl.zeros([BLOCK], tl.float32)
    outside, weight, mean_red, mean_green, mean_blue = zero, zero, zero, zero, zero

    for index in range(num_frames):
        frame = subject * num_frames + index
        x, y, z = load3(means + (frame * count + n) * 3, mask)
        r = rotations + (frame * num_vertices + vertex) * 9
        r0, r1, r2 = load3(r, mask)
        posed_x = r0 * normal_x + r1 * normal_y + r2 * normal_z
        r0, r1, r2 = load3(r + 3, mask)
        posed_y = r0 * normal_x + r1 * normal_y + r2 * normal_z
        r0, r1, r2 = load3(r + 6, mask)
        posed_z = r0 * normal_x + r1 * normal_y + r2 * normal_z
        posed_length = tl.maximum(tl.sqrt(posed_x * posed_x + posed_y * posed_y + posed_z * posed_z), 1e-8)

        for camera in range(num_views):
            view = frame * num_views + camera
            u, v, depth, inside = _project(viewmats, Ks, view, x, y, z, width, height)
            inside &= mask
            to_x, to_y, to_z = _camera_center(viewmats + view * 16)
            to_x, to_y, to_z = to_x - x, to_y - y, to_z - z
            distance = tl.maximum(tl.sqrt(to_x * to_x + to_y * to_y + to_z * to_z), 1e-8)
            cosine = (posed_x * to_x + posed_y * to_y + posed_z * to_z) / (posed_length * distance)

            size = depth / tl.load(Ks + view * 9)
            slope = tl.sqrt(tl.maximum(1 - cosine * cosine, 0.0)) / tl.maximum(cosine, MIN_COSINE)
            slack = tl.minimum(2 * size * (width / CELLS) * slope + LEAST_SLACK, MOST_SLACK)
            nearest = _surface_depth(buffers + view * CELLS * CELLS, u, v, width, height)
            behind = tl.maximum(depth - nearest, 0.0) / slack

            # Pixel centres are at +0.5. Beyond the outermost ones, their colour is repeated.
            u, v = tl.minimum(tl.maximum(u - 0.5, 0.0), width - 1.0), tl.minimum(tl.maximum(v - 0.5, 0.0), height - 1.0)
            column, row = u.to(tl.int32), v.to(tl.int32)
            upper_left = row * width + column
            right, below = tl.where(column + 1 < width, 1, 0), tl.where(row + 1 < height, width, 0)
            corners = (upper_left, upper_left + right, upper_left + below, upper_left + right + below)
            fractions = (u - column, v - row)
            plane = view * width * height  # start of the mask; an image has three such planes
            coverage = _bilinear(alphas + plane, corners, fractions, inside)
            beside = tl.where(inside, tl.minimum(tl.maximum(1 - 2 * coverage, 0.0), 1.0), 0.0)
            outside += tl.where(tl.load(most_alpha + view) > 0.5, beside, 0.0)
            visible = inside & (cosine > MIN_COSINE) & (behind < 1) & (coverage > 0.5) & (opacity > 0)
            red = _bilinear(images + 3 * plane, corners, fractions, visible)
            green = _bilinear(images + 3 * plane + width * height, corners, fractions, visible)
            blue = _bilinear(images + 3 * plane + 2 * width * height, corners, fractions, visible)

            counted = tl.where(visible, cosine, 0.0)
            weight, mean_red = weight + counted, mean_red + counted * red
            mean_green, mean_blue = mean_green + counted * green, mean_blue + counted * blue
            out = features + view * NUM_FEATURES * count + n
            tl.store(out, red, mask)
            tl.store(out + count, green, mask)
            tl.store(out + count * 2, blue, mask)
            tl.store(out + count * COVERAGE, tl.where(visible, coverage, 0.0), mask)
            tl.store(out + count * COSINE, counted, mask)
            tl.store(out + count * DEPTH_BEHIND, tl.where(visible, behind, 0.0), mask)
            tl.store(out + count * LOG_SIZE, tl.log(tl.where(visible, size / PIXEL_UNIT, 1.0)), mask)
            tl.store(out + count * VISIBLE, tl.where(visible, 1.0, 0.0), mask)

    weight = tl.maximum(weight, 1e-6)
    out = consensus + (subject * count + n) * 3
    store3(out, mean_red / weight, mean_green / weight, mean_blue / weight, mask)
    tl.store(outsides + subject * count + n, outside, mask)


def launch_observe(
    gaussians: Gaussians,
    vertex_ids: Int[Tensor, "B N"],
    rotations: Float[Tensor, "B F V 3 3"],
    normals: Float[Tensor, "V 3"],
    inputs: Frames,
) -> tuple[Float[Tensor, "B F C 8 N"], Float[Tensor, "B N 3"], Float[Tensor, "B N"]]:
    """Features, consensus and `outside` of the observations, as `observe_reference` defines them, for float32."""
    subjects, frames, views = inputs.cameras.batch_shape
    count, num_vertices = gaussians.count, normals.shape[0]
    width, height = inputs.cameras.width, inputs.cameras.height
    opacities = gaussians.opacities[:, 0].contiguous()  # the same in all frames
    means, images, alphas = (x.contiguous() for x in (gaussians.means, inputs.images, inputs.alphas))
    viewmats, Ks = inputs.cameras.viewmats.contiguous(), inputs.cameras.Ks.contiguous()
    most_alpha = alphas.flatten(3).amax(-1)
    buffers = torch.full(
        (subjects, frames, views, constants.ZBUFFER_SIZE**2), FAR.value, dtype=torch.int32, device=means.device
    )
    features = means.new_empty(subjects, frames, views, constants.NUM_FEATURES, count)
    consensus, outside = means.new_empty(subjects, count, 3), means.new_empty(subjects, count)
    blocks = triton.cdiv(count, BLOCK)
    with torch.cuda.device_of(means):
        _depth_kernel[blocks, subjects * frames](
            means, opacities, viewmats, Ks, buffers, count, frames, views, width, height, BLOCK, num_warps=WARPS
        )
        _observe_kernel[blocks, subjects](
            means, opacities, vertex_ids.contiguous(), rotations.contiguous(), normals.contiguous(),
            images, alphas, most_alpha, viewmats, Ks, buffers, features, consensus, outside,
            count, num_vertices, frames, views, width, height, BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return features, consensus, outside
