"""Pose-corrective blend shapes that restore most of the volume that linear skinning loses at bent joints.

The target is a fraction of the difference between dual quaternion skinning (Kavan et al., 2008), which keeps the volume
but bulges slightly, and linear skinning. It is fitted over random poses, linear in the rotation matrices as in SMPL.
"""

from collections import defaultdict

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from scripts.standin.skeleton import JOINT, NUM_JOINTS, chain_rotations, joint_transforms
from smpl_renderer.body_model import SMPL_PARENTS

NUM_POSES = 500
TOWARDS_DUAL_QUATERNIONS = 0.7
"""Fraction of the difference between dual quaternion and linear skinning."""
LARGEST = 0.04
"""Limit of the corrections in metres."""
NEGLIGIBLE = 2e-4
"""Smaller coefficients are set to zero."""
RIDGE = 1.0

_DEVIATIONS = {
    "hip": (0.7, 0.3, 0.35),
    "knee": (0.8, 0.08, 0.08),
    "ankle": (0.25, 0.25, 0.25),
    "foot": (0.1, 0.1, 0.1),
    "neck": (0.25, 0.3, 0.2),
    "head": (0.25, 0.3, 0.2),
    "shoulder": (0.35, 0.6, 0.7),
    "elbow": (0.25, 0.8, 0.15),
    "wrist": (0.4, 0.3, 0.4),
    "hand": (0.1, 0.1, 0.1),
}
"""Standard deviations of axis-angle vectors in radians; 0.25 for all other joints."""


def fit_correctives(
    vertices: Float[np.ndarray, "V 3"],
    joints: Float[np.ndarray, "J 3"],
    weights: Float[np.ndarray, "V J"],
    generator: np.random.Generator,
) -> Float[np.ndarray, "V 3 P"]:
    """Fit `posedirs`: rest-pose offsets, linear in the entries of the rotation matrices minus identity."""
    features = np.zeros((NUM_POSES, 9 * (NUM_JOINTS - 1)))
    goals = np.zeros((NUM_POSES, *vertices.shape))
    for pose in range(NUM_POSES):
        local = Rotation.from_rotvec(_random_pose(generator)).as_matrix()
        features[pose] = (local[1:] - np.eye(3)).ravel()
        correction = TOWARDS_DUAL_QUATERNIONS * _dual_quaternion_offsets(vertices, joints, weights, local)
        goals[pose] = np.clip(correction, -LARGEST, LARGEST)

    posedirs = np.zeros((*vertices.shape, features.shape[1]))
    for moving, members in _group_by_moving_joints(weights).items():
        columns = np.concatenate([np.arange(9 * (joint - 1), 9 * joint) for joint in moving])
        inputs, outputs = features[:, columns], goals[:, members].reshape(NUM_POSES, -1)
        normal = inputs.T @ inputs + RIDGE * np.eye(len(columns))
        solution = np.linalg.solve(normal, inputs.T @ outputs)
        posedirs[np.ix_(members, range(3), columns)] = solution.T.reshape(len(members), 3, len(columns))
    posedirs[np.abs(posedirs) < NEGLIGIBLE] = 0
    return posedirs


def _random_pose(generator: np.random.Generator) -> Float[np.ndarray, "J 3"]:
    """Draw plausible axis-angle vectors; that of the root is zero."""
    deviations = np.full((NUM_JOINTS, 3), 0.25)
    for name, joint in JOINT.items():
        deviations[joint] = _DEVIATIONS.get(name.removeprefix("left_").removeprefix("right_"), 0.25)
    pose = generator.normal(size=(NUM_JOINTS, 3)) * deviations
    pose[0] = 0
    for side, inwards in (("left", -1), ("right", 1)):
        knee, elbow, hip = (JOINT[f"{side}_{name}"] for name in ("knee", "elbow", "hip"))
        pose[knee, 0] = 1.2 * abs(pose[knee, 0])
        pose[elbow, 1] = inwards * abs(pose[elbow, 1])
        pose[hip, 0] -= 0.35
    return pose


def _group_by_moving_joints(weights: Float[np.ndarray, "V J"]) -> dict[tuple[int, ...], list[int]]:
    """Group vertices by the joints whose rotations move their skinning joints relative to each other."""
    groups = defaultdict(list)
    for vertex, row in enumerate(weights > 0.01):
        lines = [_ancestors(int(joint)) for joint in np.flatnonzero(row)]
        if len(lines) > 1:
            groups[tuple(sorted(set.union(*lines) - set.intersection(*lines)))].append(vertex)
    return groups


def _ancestors(joint: int) -> set[int]:
    """A joint and all its ancestors."""
    line = set()
    while joint >= 0:
        line.add(joint)
        joint = SMPL_PARENTS[joint]
    return line


def _dual_quaternion_offsets(
    vertices: Float[np.ndarray, "V 3"],
    joints: Float[np.ndarray, "J 3"],
    weights: Float[np.ndarray, "V J"],
    local_rotations: Float[np.ndarray, "J 3 3"],
) -> Float[np.ndarray, "V 3"]:
    """Rest-pose offsets with which linear skinning gives the result of dual quaternion skinning."""
    world = chain_rotations(local_rotations)
    _, shifts = joint_transforms(joints, world)

    real = Rotation.from_matrix(world).as_quat()[:, [3, 0, 1, 2]]
    for joint, parent in enumerate(SMPL_PARENTS[1:], start=1):
        real[joint] *= np.copysign(1, real[joint] @ real[parent])  # q and -q are the same rotation
    dual = 0.5 * _multiply(np.concatenate([np.zeros((NUM_JOINTS, 1)), shifts], axis=1), real)

    blended_real, blended_dual = weights @ real, weights @ dual
    norms = np.linalg.norm(blended_real, axis=1, keepdims=True)
    blended_real, blended_dual = blended_real / norms, blended_dual / norms
    rotated = Rotation.from_quat(blended_real[:, [1, 2, 3, 0]]).apply(vertices)
    moved = rotated + 2 * _multiply(blended_dual, blended_real * [1, -1, -1, -1])[:, 1:]

    linear = (weights @ world.reshape(-1, 9)).reshape(-1, 3, 3)
    return np.linalg.solve(linear, (moved - weights @ shifts)[..., None])[..., 0] - vertices


def _multiply(a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Product of quaternions (w, x, y, z)."""
    scalar = a[:, :1] * b[:, :1] - (a[:, 1:] * b[:, 1:]).sum(1, keepdims=True)
    vector = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + np.cross(a[:, 1:], b[:, 1:])
    return np.concatenate([scalar, vector], axis=1)
