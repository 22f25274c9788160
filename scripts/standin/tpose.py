"""People in SMPL's rest pose: arms along +-x with the palms down, shins vertical, pelvis at a fixed position."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from scripts.standin.makehuman import MakeHuman
from scripts.standin.skeleton import JOINT, NUM_JOINTS, joint_transforms, skin

PELVIS = np.array([0.0, -0.22, 0.03])
"""Position of the pelvis joint, which is not the origin, as in SMPL."""

COLLAR_LIFT = np.deg2rad(15)
ARM_DIRECTIONS = {"shoulder": (1, -0.03, -0.02), "elbow": (1, -0.02, 0.02), "wrist": (1, -0.03, 0)}
"""Direction of the bone from each joint of the left side in the rest pose."""
TWIST_SHARES = {"shoulder": 0.25, "elbow": 0.6, "wrist": 1.0}
"""Share of each joint in the rotation that turns the palm down, cumulative along the arm."""
THIGH_SPREAD = 0.06
"""Sideways over downward component of the thighs."""


def to_tpose(
    vertices: Float[np.ndarray, "N 3"],
    joints: Float[np.ndarray, "J 3"],
    weights: Float[np.ndarray, "N J"],
    human: MakeHuman,
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "J 3"]]:
    """Move vertices and joints of one person from MakeHuman's rest pose to SMPL's."""
    rotations = _rotations_to_tpose(vertices, joints, human)
    posed_joints, shifts = joint_transforms(joints, rotations)
    offset = PELVIS - posed_joints[0]
    return skin(vertices, weights, rotations, shifts) + offset, posed_joints + offset


def _rotations_to_tpose(vertices: np.ndarray, joints: np.ndarray, human: MakeHuman) -> Float[np.ndarray, "J 3 3"]:
    rotations = np.tile(np.eye(3), (NUM_JOINTS, 1, 1))
    for side, outwards in (("left", 1.0), ("right", -1.0)):
        position = {name: joints[JOINT[f"{side}_{name}"]] for name in ("shoulder", "elbow", "wrist", "hand")}
        rotation_of = {"collar": about_axis("z", outwards * COLLAR_LIFT)}
        chain = ("collar", "shoulder", "elbow", "wrist", "hand")
        for previous, joint, end in zip(chain, chain[1:], chain[2:], strict=False):
            bone = rotation_of[previous] @ (position[end] - position[joint])
            x, y, z = ARM_DIRECTIONS[joint]
            rotation_of[joint] = _shortest_rotation(bone, np.array([outwards * x, y, z])) @ rotation_of[previous]

        twist = _palm_down_angle(vertices, rotation_of["wrist"], position["wrist"], side, human)
        for joint, share in TWIST_SHARES.items():
            rotation_of[joint] = about_axis("x", share * twist) @ rotation_of[joint]
        rotation_of["hand"] = rotation_of["wrist"]

        hip, knee, ankle = (joints[JOINT[f"{side}_{name}"]] for name in ("hip", "knee", "ankle"))
        thigh, shin = knee - hip, ankle - knee
        spread = np.array([outwards * THIGH_SPREAD * abs(thigh[1]), thigh[1], thigh[2]])
        rotation_of["hip"] = _shortest_rotation(thigh, spread)
        rotation_of["knee"] = _shortest_rotation(shin, np.array([0.0, shin[1], shin[2]]))
        for joint, rotation in rotation_of.items():
            rotations[JOINT[f"{side}_{joint}"]] = rotation
    return rotations


def _palm_down_angle(
    vertices: np.ndarray, wrist_rotation: np.ndarray, wrist: np.ndarray, side: str, human: MakeHuman
) -> float:
    """Angle of the rotation about +x that turns the normal of the palm to -y."""
    index, little = (vertices[human.cube(f"{side[0]}-finger-{finger}-1")].mean(0) for finger in (2, 5))
    across = np.cross(index - wrist, little - wrist)
    normal = wrist_rotation @ (-across if side == "left" else across)  # out of the palm
    return float(np.arctan2(normal[2], -normal[1]))


def about_axis(axis: str, angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about a coordinate axis."""
    return Rotation.from_euler(axis, angle).as_matrix()


def _shortest_rotation(source: np.ndarray, target: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes one direction to another, which must not be its opposite."""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    x, y, z = np.cross(a, b)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + a @ b)
