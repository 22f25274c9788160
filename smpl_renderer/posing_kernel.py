"""Posing of bodies: one kernel for the kinematic chains, a matrix product for the correctives, one kernel for skinning.

Reference: `BodyModel.pose_reference` in smpl_renderer/body_model.py, and `vertex_rotations` in
smpl_renderer/skinning.py.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from smpl_renderer.load_store import load3, store3, store4, store_matrix
from smpl_renderer.posing_tables import PosingTables
from smpl_renderer.rotations_kernel import nearest_quaternion, quaternion_matrix
from smpl_renderer.types import BodyParams, PosedBody

BLOCK = 128  # vertices per program


@triton.jit
def _apply(m, x, y, z):
    """Product of a matrix, given as nine entries row by row, and a vector."""
    return m[0] * x + m[1] * y + m[2] * z, m[3] * x + m[4] * y + m[5] * z, m[6] * x + m[7] * y + m[8] * z


@triton.jit
def _matmul(a, b):
    x0, x1, x2 = _apply(a, b[0], b[3], b[6])
    y0, y1, y2 = _apply(a, b[1], b[4], b[7])
    z0, z1, z2 = _apply(a, b[2], b[5], b[8])
    return x0, y0, z0, x1, y1, z1, x2, y2, z2


@triton.jit
def _axis_angle_matrix(x, y, z):
    """Rodrigues' formula, entries row by row; exactly the identity for a zero vector."""
    square = x * x + y * y + z * z
    small = square < 1e-8
    angle = tl.where(small, 1.0, tl.sqrt(square))
    half_sine = tl.sin(angle * 0.5) / angle
    a = tl.where(small, 1.0 - square / 6, tl.sin(angle) / angle)
    b = tl.where(small, 0.5, half_sine * half_sine * 2)
    return (
        1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y,
        b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x,
        b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y),
    )  # fmt: skip


@triton.jit
def _load_matrix(pointers, mask):
    """Load nine adjacent values row by row; the identity where masked."""
    a0, a1, a2 = load3(pointers, mask)
    b0, b1, b2 = load3(pointers + 3, mask)
    c0, c1, c2 = load3(pointers + 6, mask)
    one = tl.where(mask, 0.0, 1.0)
    return a0 + one, a1, a2, b0, b1 + one, b2, c0, c1, c2 + one


@triton.jit
def _chain_kernel(
    orients, body_poses, rest_joints, scales, transls, ancestors, rotations, pose_features, transforms, joints,
    num_joints, poses_per_shape, DEPTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pose the joints: one program per pose, one lane per joint.

    Each lane multiplies the transforms of its joint's ancestors up to the root, so that no lane waits for another.
    """
    pose = tl.program_id(0).to(tl.int64)
    joint = tl.arange(0, BLOCK)
    mask = joint < num_joints
    is_root = joint == 0
    root_x, root_y, root_z = load3(orients + pose * 3 + joint, is_root)
    x, y, z = load3(body_poses + (pose * (num_joints - 1) + joint - 1) * 3, mask & (joint > 0))
    m = _axis_angle_matrix(root_x + x, root_y + y, root_z + z)
    local = rotations + pose * num_joints * 9
    store_matrix(local + joint * 9, m, mask)
    features = pose_features + (pose * (num_joints - 1) + joint - 1) * 9
    for k in tl.static_range(9):
        tl.store(features + k, m[k] - (1.0 if k % 4 == 0 else 0.0), mask & (joint > 0))
    tl.debug_barrier()  # the loop below reads rotations that other lanes have stored

    rest = rest_joints + pose // poses_per_shape * num_joints * 3
    parent = tl.load(ancestors + num_joints + joint, mask, -1)
    rest_x, rest_y, rest_z = load3(rest + joint * 3, mask)
    start_x, start_y, start_z = load3(rest + parent * 3, parent >= 0)
    x, y, z = rest_x - start_x, rest_y - start_y, rest_z - start_z
    for d in range(2, DEPTH + 1):
        # Beyond the root, loads are masked: the identity and a bone of length zero.
        a, parent = parent, tl.load(ancestors + d * num_joints + joint, mask, -1)
        rotation = _load_matrix(local + a * 9, a >= 0)
        end_x, end_y, end_z = start_x, start_y, start_z
        start_x, start_y, start_z = load3(rest + parent * 3, parent >= 0)
        x, y, z = _apply(rotation, x, y, z)
        x, y, z = x + (end_x - start_x), y + (end_y - start_y), z + (end_z - start_z)
        m = _matmul(rotation, m)

    shift_x, shift_y, shift_z = _apply(m, rest_x, rest_y, rest_z)
    row = transforms + (pose * num_joints + joint) * 12
    store4(row, m[0], m[1], m[2], x - shift_x, mask, BLOCK)
    store4(row + 4, m[3], m[4], m[5], y - shift_y, mask, BLOCK)
    store4(row + 8, m[6], m[7], m[8], z - shift_z, mask, BLOCK)
    scale, transl = tl.load(scales + pose), transls + pose * 3
    x, y, z = scale * x + tl.load(transl), scale * y + tl.load(transl + 1), scale * z + tl.load(transl + 2)
    store3(joints + (pose * num_joints + joint) * 3, x, y, z, mask)


@triton.jit
def _skinning_kernel(
    shaped, correctives, joint_transforms, influences, weights, scales, transls, vertices, transforms, rotations, quats,
    num_vertices, num_joints, poses_per_shape, NUM_INFLUENCES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Blend joint transforms, include correctives, scale and translation, and find the nearest rotations."""
    pose = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = v < num_vertices
    zero = tl.zeros([BLOCK], tl.float32)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    x, y, z = zero, zero, zero
    for k in range(NUM_INFLUENCES):
        weight = tl.load(weights + k * num_vertices + v, mask, 0.0)
        row = joint_transforms + (pose * num_joints + tl.load(influences + k * num_vertices + v, mask, 0)) * 12
        m00 += weight * tl.load(row)
        m01 += weight * tl.load(row + 1)
        m02 += weight * tl.load(row + 2)
        x += weight * tl.load(row + 3)
        m10 += weight * tl.load(row + 4)
        m11 += weight * tl.load(row + 5)
        m12 += weight * tl.load(row + 6)
        y += weight * tl.load(row + 7)
        m20 += weight * tl.load(row + 8)
        m21 += weight * tl.load(row + 9)
        m22 += weight * tl.load(row + 10)
        z += weight * tl.load(row + 11)

    scale, transl = tl.load(scales + pose), transls + pose * 3
    m = (m00 * scale, m01 * scale, m02 * scale, m10 * scale, m11 * scale, m12 * scale, m20 * scale, m21 * scale,
         m22 * scale)  # fmt: skip
    i = pose * num_vertices + v
    corrective_x, corrective_y, corrective_z = load3(correctives + i * 3, mask)
    corrective_x, corrective_y, corrective_z = _apply(m, corrective_x, corrective_y, corrective_z)
    x = scale * x + corrective_x + tl.load(transl)
    y = scale * y + corrective_y + tl.load(transl + 1)
    z = scale * z + corrective_z + tl.load(transl + 2)
    rest_x, rest_y, rest_z = load3(shaped + (pose // poses_per_shape * num_vertices + v) * 3, mask)
    posed_x, posed_y, posed_z = _apply(m, rest_x, rest_y, rest_z)
    store3(vertices + i * 3, posed_x + x, posed_y + y, posed_z + z, mask)
    store4(transforms + i * 16, m[0], m[1], m[2], x, mask, BLOCK)
    store4(transforms + i * 16 + 4, m[3], m[4], m[5], y, mask, BLOCK)
    store4(transforms + i * 16 + 8, m[6], m[7], m[8], z, mask, BLOCK)
    store4(transforms + i * 16 + 12, zero, zero, zero, zero + 1.0, mask, BLOCK)
    qw, qx, qy, qz = nearest_quaternion(m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8])
    store4(quats + i * 4, qw, qx, qy, qz, mask, BLOCK)
    store_matrix(rotations + i * 9, quaternion_matrix(qw, qx, qy, qz), mask)


def pose_bodies_fused(
    tables: PosingTables,
    params: BodyParams,
    shaped: Float[Tensor, "*shapes V 3"],
    rest_joints: Float[Tensor, "*shapes 3J"],
) -> PosedBody:
    """Pose bodies in float32, without gradients.

    Args:
        tables: Arrays of the body model.
        params: Parameters of at least one body.
        shaped: Vertices of the rest pose. The axes `*shapes` are the first batch axes of `params`, perhaps not all:
            poses along the remaining axes share a shape.
        rest_joints: Joints of the rest pose.
    """
    batch, num_poses = params.batch_shape, params.scale.numel()
    num_vertices, num_joints = shaped.shape[-2], rest_joints.shape[-1] // 3
    poses_per_shape = num_poses // (shaped.numel() // (3 * num_vertices))
    orients, body_poses, transls = (
        x.reshape(num_poses, -1).contiguous() for x in (params.global_orient, params.body_pose, params.transl)
    )
    scales = params.scale.reshape(-1).contiguous()

    def empty(*shape: int) -> Tensor:
        return params.scale.new_empty(num_poses, *shape)

    joints, joint_rotations, joint_transforms = empty(num_joints, 3), empty(num_joints, 9), empty(num_joints, 12)
    pose_features = empty(9 * (num_joints - 1))
    vertices, transforms = empty(num_vertices, 3), empty(num_vertices, 4, 4)
    rotations, quats = empty(num_vertices, 3, 3), empty(num_vertices, 4)
    ancestors, influences = tables.ancestors, tables.influences
    with torch.cuda.device_of(vertices):
        _chain_kernel[(num_poses,)](
            orients, body_poses, rest_joints, scales, transls, ancestors,
            joint_rotations, pose_features, joint_transforms, joints,
            num_joints, poses_per_shape, len(ancestors) - 1, triton.next_power_of_2(num_joints), num_warps=1,
        )  # fmt: skip
        correctives = linear(pose_features, tables.posedirs.flatten(0, 1))
        _skinning_kernel[(num_poses, triton.cdiv(num_vertices, BLOCK))](
            shaped, correctives, joint_transforms, influences, tables.influence_weights, scales, transls,
            vertices, transforms, rotations, quats,
            num_vertices, num_joints, poses_per_shape, len(influences), BLOCK,
        )  # fmt: skip
    shared = [1] * (len(batch) - (shaped.ndim - 2))
    return PosedBody(
        vertices=vertices.view(*batch, num_vertices, 3),
        joints=joints.view(*batch, num_joints, 3),
        shaped=shaped.view(*shaped.shape[:-2], *shared, num_vertices, 3).expand(*batch, num_vertices, 3),
        vertex_transforms=transforms.view(*batch, num_vertices, 4, 4),
        rotations=rotations.view(*batch, num_vertices, 3, 3),
        quats=quats.view(*batch, num_vertices, 4),
        scale=params.scale,
    )
