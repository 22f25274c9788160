"""Poses as named anatomical angles: how far an arm hangs down, how far a knee is bent.

Angles are interpolated as numbers, clipped to joint limits, and only then turned into joint rotations.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from smpl_renderer.body_model import JOINT_NAMES

# Limits in degrees. Angles of a limb are named once; the left limb's name starts with `l_`, the right's with `r_`.
_LIMB_LIMITS = {
    "arm_down": (-65, 78),  # 0 is the T-pose, 78 hangs beside the body, negative raises
    "arm_forward": (-50, 100),  # turns the hanging arm about the left-right axis
    "arm_across": (-20, 85),  # turns the level arm forward about the vertical axis
    "arm_twist": (-80, 80),  # positive turns the palm up
    "collar": (-8, 22),
    "elbow": (0, 130),
    "forearm_twist": (-60, 60),
    "wrist": (-45, 45),
    "hip": (-30, 110),  # positive lifts the thigh forward
    "hip_out": (-10, 45),
    "hip_twist": (-25, 40),  # positive turns the toes outward
    "knee": (0, 130),
    "ankle": (-40, 30),  # positive points the toes down
    "toes": (-35, 10),
    "fingers": (-5, 60),
}
_TRUNK_LIMITS = {
    "bend": (-20, 60),  # the spine, forward
    "lean": (-25, 25),  # the spine, to the left
    "turn": (-45, 45),  # the spine, to the left
    "nod": (-35, 35),
    "look": (-60, 60),  # the head, to the left
    "tilt": (-25, 25),
    "pitch": (-15, 60),  # the whole body, forward
    "roll": (-15, 15),
    "heading": (-400, 400),  # the whole body about the vertical axis, to its left
}
LIMITS = {
    **{f"{side}_{name}": limit for side in "lr" for name, limit in _LIMB_LIMITS.items()},
    **_TRUNK_LIMITS,
}
ANGLES = tuple(LIMITS)
_SIGNED_TRUNK = ("lean", "turn", "look", "tilt", "roll", "heading")

RELAXED = {
    **{f"{side}_{name}": angle for side in "lr" for name, angle in (("arm_down", 66), ("elbow", 14), ("hip_out", 3))},
    **{f"{side}_{name}": angle for side in "lr" for name, angle in (("hip_twist", 6), ("fingers", 14), ("collar", -3))},
}
"""A relaxed stance: the angles that differ from zero."""


def both(**angles: float) -> dict[str, float]:
    """Angles of both limbs of a pair, equal on the left and the right."""
    return {f"{side}_{name}": angle for side in "lr" for name, angle in angles.items()}


def to_vector(pose: dict[str, float]) -> Float[np.ndarray, " A"]:
    """Angles in the order of `ANGLES`; missing ones are 0."""
    return np.array([float(pose.get(name, 0.0)) for name in ANGLES])


def clip_to_limits(vector: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
    """Angles within the joint limits."""
    limits = np.array([LIMITS[name] for name in ANGLES], dtype=float)
    return np.clip(vector, limits[:, 0], limits[:, 1])


def mirror(vector: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
    """The mirror image of a pose."""
    pose = dict(zip(ANGLES, vector))
    swap = {"l_": "r_", "r_": "l_"}
    mirrored = {}
    for name in ANGLES:
        source = swap[name[:2]] + name[2:] if name[:2] in swap else name
        mirrored[name] = -pose[source] if name in _SIGNED_TRUNK else pose[source]
    return to_vector(mirrored)


def closed_curve(keys: list[Float[np.ndarray, " A"]], position: float) -> Float[np.ndarray, " A"]:
    """A closed Catmull-Rom curve through the keys, at a position counted in keys."""
    index = int(np.floor(position))
    t = position - index
    a, b, c, d = (keys[(index + k) % len(keys)] for k in (-1, 0, 1, 2))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def joint_rotations(angles: dict[str, float | Float[np.ndarray, " T"]]) -> Float[np.ndarray, "*T J 3"]:
    """Joint rotations (axis-angle) relative to the parents; the root carries pitch and roll, but not the heading.

    Args:
        angles: All of `ANGLES`, in degrees: of one pose, or of T poses.
    """
    a = angles
    joints = {
        "spine1": _rotation(("x", a["bend"] * 0.3), ("y", a["turn"] * 0.3), ("z", -a["lean"] * 0.35)),
        "spine2": _rotation(("x", a["bend"] * 0.35), ("y", a["turn"] * 0.35), ("z", -a["lean"] * 0.35)),
        "spine3": _rotation(("x", a["bend"] * 0.35), ("y", a["turn"] * 0.35), ("z", -a["lean"] * 0.3)),
        "neck": _rotation(("y", a["look"] * 0.4), ("x", a["nod"] * 0.4), ("z", -a["tilt"] * 0.5)),
        "head": _rotation(("y", a["look"] * 0.6), ("x", a["nod"] * 0.6), ("z", -a["tilt"] * 0.5)),
        "pelvis": _rotation(("x", a["pitch"]), ("z", -a["roll"])),
    }
    for side, sign in (("left", 1.0), ("right", -1.0)):
        limb = {name[2:]: value for name, value in a.items() if name[:2] == side[0] + "_"}
        joints |= {
            f"{side}_collar": _rotation(("z", sign * limb["collar"])),
            f"{side}_shoulder": _rotation(
                ("x", -limb["arm_forward"]),
                ("y", -sign * limb["arm_across"]),
                ("z", -sign * limb["arm_down"]),
                ("x", -limb["arm_twist"]),
            ),
            f"{side}_elbow": _rotation(("y", -sign * limb["elbow"]), ("x", -limb["forearm_twist"])),
            f"{side}_wrist": _rotation(("z", -sign * limb["wrist"])),
            f"{side}_hand": _rotation(("z", -sign * limb["fingers"])),
            f"{side}_hip": _rotation(
                ("x", -limb["hip"]), ("z", sign * limb["hip_out"]), ("y", sign * limb["hip_twist"])
            ),
            f"{side}_knee": _rotation(("x", limb["knee"])),
            f"{side}_ankle": _rotation(("x", limb["ankle"])),
            f"{side}_foot": _rotation(("x", limb["toes"])),
        }
    pose = np.zeros((*np.shape(a["bend"]), len(JOINT_NAMES), 3))
    for name, rotation in joints.items():
        pose[..., JOINT_NAMES.index(name), :] = rotation.as_rotvec()
    return pose


def _rotation(*turns: tuple[str, float | Float[np.ndarray, " T"]]) -> Rotation:
    """The product of turns about the body's axes, in degrees; the first is the outermost."""
    result = Rotation.identity()
    for axis, angle in turns:
        degrees = angle[:, None] if np.ndim(angle) else angle
        result = result * Rotation.from_euler(axis, degrees, degrees=True)
    return result
