"""SMPL's 24 joints on MakeHuman's rig, and posing in NumPy."""

import numpy as np
from jaxtyping import Float, Int

from scripts.standin.makehuman import MakeHuman
from smpl_renderer.body_model import JOINT_NAMES, SMPL_PARENTS

NUM_JOINTS = len(JOINT_NAMES)
JOINT = {name: index for index, name in enumerate(JOINT_NAMES)}

_CENTRAL_CUBES = {
    "pelvis": ("pelvis", "spine-4"),
    "spine1": ("spine-3",),
    "spine2": ("spine-2",),
    "spine3": ("spine-2", "spine-1"),
    "neck": ("neck",),
    "head": ("head",),
}
_SIDE_CUBES = {
    "hip": ("upper-leg",),
    "knee": ("knee",),
    "ankle": ("ankle",),
    "foot": ("toe-1-1", "toe-2-1", "toe-3-1", "toe-4-1", "toe-5-1"),
    "collar": ("clavicle", "scapula"),
    "shoulder": ("shoulder",),
    "elbow": ("elbow",),
    "wrist": ("hand",),
    "hand": ("finger-2-1", "finger-3-1", "finger-4-1"),
}
"""Cubes of the rig whose mean is a joint; those of a limb without the prefix `l-` or `r-`."""

_CENTRAL_BONES = {
    **dict.fromkeys(("root", "pelvis", "spine05"), "pelvis"),
    **dict.fromkeys(("spine04", "spine03"), "spine1"),
    **dict.fromkeys(("spine02",), "spine2"),
    **dict.fromkeys(("spine01", "breast"), "spine3"),
}
_SIDE_BONES = {
    "upperleg": "hip",
    "lowerleg": "knee",
    "foot": "ankle",
    "toe": "foot",
    "clavicle": "collar",
    "shoulder01": "collar",
    "upperarm": "shoulder",
    "lowerarm": "elbow",
    "wrist": "wrist",
    "metacarpal": "wrist",
    "finger1-1": "wrist",  # the ball of the thumb
    "finger": "hand",
}
"""Joint of all bones whose names start with the key; the first match applies."""


def joint_of_bone(bone: str) -> str:
    """SMPL joint of a bone of MakeHuman's default rig."""
    stem, _, side = bone.partition(".")
    if stem in _CENTRAL_BONES or stem.startswith("pelvis"):
        return _CENTRAL_BONES.get(stem, "pelvis")
    for start, joint in _SIDE_BONES.items():
        if stem.startswith(start):
            return f"{'left' if side == 'L' else 'right'}_{joint}"
    return "neck" if stem.startswith("neck") else "head"


def joint_from_cubes(human: MakeHuman) -> Float[np.ndarray, "J N"]:
    """Regressor of the joints from the cubes of the rig."""
    regressor = np.zeros((NUM_JOINTS, len(human.vertices)))
    for name, row in zip(JOINT_NAMES, regressor, strict=True):
        side, _, joint = name.partition("_")
        cubes = [f"{side[0]}-{cube}" for cube in _SIDE_CUBES[joint]] if joint else _CENTRAL_CUBES[name]
        for cube in cubes:
            row[human.cube(cube)] = 1 / (8 * len(cubes))
    return regressor


def joint_weights(human: MakeHuman) -> Float[np.ndarray, "N J"]:
    """Skinning weights of MakeHuman's bones, summed over the bones of each joint."""
    weights = np.zeros((len(human.vertices), NUM_JOINTS))
    for bone, rows in human.bone_weights.items():
        np.add.at(weights[:, JOINT[joint_of_bone(bone)]], rows[:, 0].astype(np.int64), rows[:, 1])
    return weights / weights.sum(1, keepdims=True)


def mirrored_joints() -> Int[np.ndarray, " J"]:
    """Index of the mirrored joint."""
    other = {"left": "right", "right": "left"}
    pairs = (name.partition("_") for name in JOINT_NAMES)
    return np.array([JOINT[f"{other.get(side, side)}{gap}{joint}"] for side, gap, joint in pairs])


def joint_transforms(
    rest_joints: Float[np.ndarray, "J 3"], world_rotations: Float[np.ndarray, "J 3 3"]
) -> tuple[Float[np.ndarray, "J 3"], Float[np.ndarray, "J 3"]]:
    """Posed joints, and shifts such that a point x of joint j moves to `R_j x + shift_j`."""
    posed = rest_joints.copy()
    for joint, parent in enumerate(SMPL_PARENTS[1:], start=1):
        posed[joint] = posed[parent] + world_rotations[parent] @ (rest_joints[joint] - rest_joints[parent])
    return posed, posed - np.einsum("jab,jb->ja", world_rotations, rest_joints)


def chain_rotations(local_rotations: Float[np.ndarray, "J 3 3"]) -> Float[np.ndarray, "J 3 3"]:
    """World rotations of joints from rotations relative to their parents."""
    world = local_rotations.copy()
    for joint, parent in enumerate(SMPL_PARENTS[1:], start=1):
        world[joint] = world[parent] @ local_rotations[joint]
    return world


def skin(
    vertices: Float[np.ndarray, "V 3"],
    weights: Float[np.ndarray, "V J"],
    rotations: Float[np.ndarray, "J 3 3"],
    shifts: Float[np.ndarray, "J 3"],
) -> Float[np.ndarray, "V 3"]:
    """Linear blend skinning."""
    blended = (weights @ rotations.reshape(-1, 9)).reshape(-1, 3, 3)
    return np.einsum("vab,vb->va", blended, vertices) + weights @ shifts
