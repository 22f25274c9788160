"""Authored motion: sequences of key poses in anatomical angles, interpolated, varied from person to person.

A pose is a set of named angles in degrees (how far an arm hangs down, how far a knee is bent), which are interpolated
as plain numbers and clipped to joint limits, and only then become joint rotations. Symmetric motion is half authored:
the mirrored keys follow.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from scripts.synthetic.curves import smoothstep
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


@dataclass(frozen=True)
class Sequence:
    """Key poses, each a deviation from the relaxed stance; `mirrored` appends their mirror images."""

    name: str
    keys: tuple[dict[str, float], ...]
    seconds_per_key: float
    mirrored: bool = False


def _both(**angles: float) -> dict[str, float]:
    return {f"{side}_{name}": angle for side in "lr" for name, angle in angles.items()}


SEQUENCES = (
    Sequence(
        "idle",
        (
            {**_both(arm_down=64), "look": 12, "lean": 2},
            {**_both(arm_down=68), "l_hip": 8, "l_knee": 14, "lean": -3, "look": -15},
            {**_both(arm_down=62, elbow=25), "r_hip": 6, "r_knee": 12, "nod": 8},
        ),
        1.6,
    ),
    Sequence(
        "walk",
        (
            {
                **{"l_hip": 30, "l_knee": 8, "l_ankle": -8, "r_hip": -16, "r_knee": 22, "r_ankle": 14, "r_toes": -20},
                **{"l_arm_forward": -24, "r_arm_forward": 30, "l_elbow": 14, "r_elbow": 34, "turn": 9, "bend": 4},
            },
            {
                **{"l_hip": 8, "l_knee": 12, "r_hip": 16, "r_knee": 58, "r_ankle": 8, "l_arm_forward": -4},
                **{"r_arm_forward": 6, "l_elbow": 20, "r_elbow": 22, "bend": 4},
            },
        ),
        0.4,
        mirrored=True,
    ),
    Sequence(
        "run",
        (
            {
                **{"l_hip": 68, "l_knee": 88, "l_ankle": 4, "r_hip": -18, "r_knee": 30, "r_ankle": 22, "r_toes": -25},
                **{"l_arm_forward": -42, "r_arm_forward": 42, "l_elbow": 80, "r_elbow": 92, "turn": 14, "bend": 12},
                **{"pitch": 6, **_both(arm_down=60)},
            },
            {
                **{"l_hip": 26, "l_knee": 34, "l_ankle": -12, "r_hip": 10, "r_knee": 98, "r_ankle": 20, "bend": 12},
                **{"l_arm_forward": -8, "r_arm_forward": 4, "l_elbow": 84, "r_elbow": 84, **_both(arm_down=60)},
            },
        ),
        0.3,
        mirrored=True,
    ),
    Sequence(
        "reach",
        (
            {"r_arm_forward": 78, "r_elbow": 18, "r_arm_down": 70, "turn": 10, "look": -8, "bend": 4},
            {"l_arm_down": -35, "l_collar": 14, "l_elbow": 24, "lean": -6, "nod": -14, "look": 20},
            {**_both(arm_forward=70, elbow=35), "bend": 14, "nod": 8},
            {"r_arm_down": 4, "r_arm_across": 20, "r_elbow": 10, "look": -38, "turn": -14},
        ),
        1.0,
    ),
    Sequence(
        "squat",
        (
            _both(arm_forward=20, elbow=20),
            {
                **_both(hip=88, knee=104, ankle=-24, hip_out=14, hip_twist=18, arm_down=60, arm_forward=76, elbow=18),
                **{"pitch": 22, "bend": 14, "nod": -16},
            },
            {
                **_both(hip=44, knee=58, ankle=-18, hip_out=9, hip_twist=10, arm_forward=40, elbow=60),
                **{"pitch": 10, "bend": 12},
            },
        ),
        1.1,
    ),
    Sequence(
        "turn",
        (
            {"heading": 0, "look": 14},
            {"heading": 60, "look": 26, "turn": 12, "l_hip": 14, "l_knee": 28, "l_arm_forward": -10},
            {"heading": 120, "look": 20, "turn": 8, "r_hip": 12, "r_knee": 24, "r_arm_forward": 14},
            {"heading": 60, "look": -22, "turn": -12, "l_hip": 10, "l_knee": 20},
        ),
        0.9,
    ),
    Sequence(
        "dance",
        (
            {
                **{"l_arm_down": -10, "l_elbow": 75, "l_arm_twist": 45, "r_arm_down": 45, "r_elbow": 70},
                **{"lean": 8, "l_hip": 20, "l_knee": 34, "r_hip_out": 12, "turn": 14, "look": 18},
            },
            {
                **{"l_arm_down": 38, "r_arm_down": 30, **_both(elbow=52, arm_across=28, knee=26, hip=18, ankle=-10)},
                **{"lean": 0, "nod": 8},
            },
        ),
        0.6,
        mirrored=True,
    ),
    Sequence(
        "arms up",
        (
            _both(arm_down=20, elbow=20),
            {**_both(arm_down=-42, collar=16, elbow=62, arm_twist=40), "nod": -8},
            {**_both(arm_down=-20, collar=10, elbow=112, arm_twist=55), "nod": 4},
            _both(arm_down=4, elbow=8, collar=4),
        ),
        1.0,
    ),
    Sequence(
        "sit",
        (
            {**_both(hip=20, knee=26, ankle=-8, arm_forward=20), "pitch": 8, "bend": 10},
            {
                **_both(hip=82, knee=84, ankle=-8, hip_out=8, arm_down=64, arm_forward=34, elbow=44),
                **{"pitch": 6, "bend": 10, "nod": -4},
            },
            {
                **_both(hip=76, knee=80, ankle=-8, hip_out=12, arm_down=58, arm_forward=24, elbow=72),
                **{"pitch": 10, "turn": 14, "look": 20},
            },
        ),
        1.2,
    ),
    Sequence(
        "lunge",
        (
            {
                **{"l_hip": 62, "l_knee": 70, "l_ankle": -8, "r_hip": -22, "r_knee": 40, "r_ankle": -6, "r_toes": -30},
                **{"l_arm_down": 20, "r_arm_down": 35, "l_arm_across": 20, "r_elbow": 40, "bend": 4},
            },
            {**_both(arm_down=50, elbow=40, hip_out=10, hip_twist=12), "lean": 3},
        ),
        1.0,
        mirrored=True,
    ),
    Sequence(
        "kick",
        (
            {
                **{"l_hip": 58, "l_knee": 22, "l_ankle": 16, "r_knee": 12, "r_hip": 2, "bend": -4},
                **{"l_arm_down": 40, "r_arm_down": 22, "r_arm_across": 25, "l_elbow": 30, "turn": -10},
            },
            {**_both(arm_down=52, elbow=44), "l_hip": -14, "l_knee": 46, "r_knee": 14, "r_hip": 10, "bend": 6},
        ),
        0.7,
        mirrored=True,
    ),
    Sequence(
        "stretch",
        (
            {
                "l_arm_down": -38,
                "l_elbow": 50,
                "l_collar": 14,
                "lean": -18,
                "r_hip_out": 14,
                "l_hip_out": 10,
                "r_elbow": 60,
            },
            {**_both(arm_down=56, elbow=80, arm_across=4, hip_out=10), "turn": 26, "look": 30},
            {"bend": 40, "pitch": 14, "nod": -6, **_both(hip=34, knee=22, arm_forward=70, elbow=12, hip_out=6)},
        ),
        1.2,
        mirrored=True,
    ),
)
# Seconds that a sequence lasts before the next one, and of the blend between two.
_SEGMENT = 4.0
_BLEND = 0.8
FRAME_RATE = 25.0
"""Frame ids count the images of a recording at so many a second, of which every fifth is kept."""


@dataclass(frozen=True)
class Motion:
    """What one person does in a capture, at any time of it."""

    order: tuple[int, ...]
    """Indices of the sequences, one after another, from the start again when all are through."""
    phases: tuple[float, ...]
    """Where in its period each of them starts, as a share of it."""
    mirrored: tuple[bool, ...]
    speed: float
    gains: dict[str, float]
    """Person's factor on each angle's deviation from the relaxed stance."""
    offsets: dict[str, float]
    """Degrees added to each angle throughout."""
    heading: tuple[float, float, float]
    """Slow drift of the heading: amplitude in degrees, period in seconds, phase."""
    drift: tuple[float, float, float, float]
    """Slow drift on the floor: amplitude in metres, two periods in seconds, phase."""

    def angles(self, frame_id: int) -> dict[str, float]:
        """Anatomical angles in degrees at an image id."""
        time = frame_id / FRAME_RATE
        segment, within = int(time // _SEGMENT), time % _SEGMENT
        vector = self._segment_angles(segment, within)
        if segment > 0 and within < _BLEND:
            share = smoothstep(within, 0.0, _BLEND)
            vector = share * vector + (1 - share) * self._segment_angles(segment - 1, within + _SEGMENT)
        relaxed = _vector(RELAXED)
        gains = np.array([self.gains.get(name, 1.0) for name in ANGLES])
        offsets = np.array([self.offsets.get(name, 0.0) for name in ANGLES])
        vector = relaxed + gains * (vector - relaxed) + offsets
        limits = np.array([LIMITS[name] for name in ANGLES], dtype=float)
        return dict(zip(ANGLES, np.clip(vector, limits[:, 0], limits[:, 1]).tolist()))

    def place(self, frame_id: int) -> tuple[float, float, float]:
        """Where the pelvis is on the floor (metres), and the heading's drift (degrees), at an image id."""
        time = frame_id / FRAME_RATE
        amplitude, period_x, period_y, phase = self.drift
        x = amplitude * np.sin(2 * np.pi * (time / period_x + phase))
        y = amplitude * np.cos(2 * np.pi * (time / period_y + 0.7 * phase))
        degrees, period, shift = self.heading
        return float(x), float(y), float(degrees * np.sin(2 * np.pi * (time / period + shift)))

    def _segment_angles(self, segment: int, within: float) -> np.ndarray:
        slot = segment % len(self.order)
        sequence = SEQUENCES[self.order[slot]]
        keys = [_vector({**RELAXED, **key}) for key in sequence.keys]
        if sequence.mirrored:
            keys += [_mirror(key) for key in keys]
        if self.mirrored[slot]:
            keys = [_mirror(key) for key in keys]
        position = self.speed * within / sequence.seconds_per_key + self.phases[slot] * len(keys)
        return _catmull_rom(keys, position)


def sample_motion(rng: np.random.Generator, stride: float = 1.0) -> Motion:
    """Draw what a person does, and their manner of doing it; a `stride` below 1 keeps the legs from going far."""
    count = len(SEQUENCES)
    gains = {name: float(rng.uniform(0.8, 1.15)) for name in ANGLES if name != "heading"}
    gains |= {name: stride * gains[name] for name in ANGLES if name[2:] in ("hip", "knee", "ankle")}
    offsets = {name: float(rng.normal(0, 2.5)) for name in ANGLES if name != "heading"}
    return Motion(
        order=tuple(rng.permutation(count).tolist()),
        phases=tuple(rng.uniform(0, 1, count).tolist()),
        mirrored=tuple((rng.uniform(0, 1, count) < 0.5).tolist()),
        speed=float(rng.uniform(0.85, 1.15)),
        gains=gains,
        offsets=offsets,
        heading=(float(rng.uniform(10, 40)), float(rng.uniform(15, 40)), float(rng.uniform(0, 1))),
        drift=(float(rng.uniform(0.02, 0.09)), *rng.uniform(8, 20, 2).tolist(), float(rng.uniform(0, 1))),
    )


def joint_rotations(angles: dict[str, float]) -> Float[np.ndarray, "J 3"]:
    """Joint rotations (axis-angle) relative to the parents; the root carries pitch and roll, but not the heading."""
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
    pose = np.zeros((len(JOINT_NAMES), 3))
    for name, rotation in joints.items():
        pose[JOINT_NAMES.index(name)] = rotation.as_rotvec()
    return pose


def _rotation(*turns: tuple[str, float]) -> Rotation:
    """The product of turns about the body's axes, in degrees; the first is the outermost."""
    result = Rotation.identity()
    for axis, angle in turns:
        result = result * Rotation.from_euler(axis, angle, degrees=True)
    return result


def _vector(pose: dict[str, float]) -> np.ndarray:
    return np.array([float(pose.get(name, 0.0)) for name in ANGLES])


def _mirror(vector: np.ndarray) -> np.ndarray:
    pose = dict(zip(ANGLES, vector))
    swap = {"l_": "r_", "r_": "l_"}
    mirrored = {}
    for name in ANGLES:
        source = swap[name[:2]] + name[2:] if name[:2] in swap else name
        mirrored[name] = -pose[source] if name in _SIGNED_TRUNK else pose[source]
    return _vector(mirrored)


def _catmull_rom(keys: list[np.ndarray], position: float) -> np.ndarray:
    """A smooth closed curve through the keys, at a position counted in keys."""
    index = int(np.floor(position))
    t = position - index
    a, b, c, d = (keys[(index + k) % len(keys)] for k in (-1, 0, 1, 2))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
