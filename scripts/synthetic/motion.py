"""Motions of synthetic people: interpolated sequences of key poses, with variation between people.

Poses are anatomical angles in degrees (`core.motion.anatomy`). Of a symmetric motion only half of the keys are
authored; their mirror images follow.
"""

from dataclasses import dataclass

import numpy as np

from core.motion.anatomy import ANGLES, RELAXED, both, clip_to_limits, closed_curve, mirror, to_vector
from scripts.synthetic.curves import smoothstep


@dataclass(frozen=True)
class Sequence:
    """Key poses as deviations from the relaxed stance; `mirrored` appends their mirror images."""

    name: str
    keys: tuple[dict[str, float], ...]
    seconds_per_key: float
    mirrored: bool = False


SEQUENCES = (
    Sequence(
        "idle",
        (
            {**both(arm_down=64), "look": 12, "lean": 2},
            {**both(arm_down=68), "l_hip": 8, "l_knee": 14, "lean": -3, "look": -15},
            {**both(arm_down=62, elbow=25), "r_hip": 6, "r_knee": 12, "nod": 8},
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
                **{"pitch": 6, **both(arm_down=60)},
            },
            {
                **{"l_hip": 26, "l_knee": 34, "l_ankle": -12, "r_hip": 10, "r_knee": 98, "r_ankle": 20, "bend": 12},
                **{"l_arm_forward": -8, "r_arm_forward": 4, "l_elbow": 84, "r_elbow": 84, **both(arm_down=60)},
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
            {**both(arm_forward=70, elbow=35), "bend": 14, "nod": 8},
            {"r_arm_down": 4, "r_arm_across": 20, "r_elbow": 10, "look": -38, "turn": -14},
        ),
        1.0,
    ),
    Sequence(
        "squat",
        (
            both(arm_forward=20, elbow=20),
            {
                **both(hip=88, knee=104, ankle=-24, hip_out=14, hip_twist=18, arm_down=60, arm_forward=76, elbow=18),
                **{"pitch": 22, "bend": 14, "nod": -16},
            },
            {
                **both(hip=44, knee=58, ankle=-18, hip_out=9, hip_twist=10, arm_forward=40, elbow=60),
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
                **{"l_arm_down": 38, "r_arm_down": 30, **both(elbow=52, arm_across=28, knee=26, hip=18, ankle=-10)},
                **{"lean": 0, "nod": 8},
            },
        ),
        0.6,
        mirrored=True,
    ),
    Sequence(
        "arms up",
        (
            both(arm_down=20, elbow=20),
            {**both(arm_down=-42, collar=16, elbow=62, arm_twist=40), "nod": -8},
            {**both(arm_down=-20, collar=10, elbow=112, arm_twist=55), "nod": 4},
            both(arm_down=4, elbow=8, collar=4),
        ),
        1.0,
    ),
    Sequence(
        "sit",
        (
            {**both(hip=20, knee=26, ankle=-8, arm_forward=20), "pitch": 8, "bend": 10},
            {
                **both(hip=82, knee=84, ankle=-8, hip_out=8, arm_down=64, arm_forward=34, elbow=44),
                **{"pitch": 6, "bend": 10, "nod": -4},
            },
            {
                **both(hip=76, knee=80, ankle=-8, hip_out=12, arm_down=58, arm_forward=24, elbow=72),
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
            {**both(arm_down=50, elbow=40, hip_out=10, hip_twist=12), "lean": 3},
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
            {**both(arm_down=52, elbow=44), "l_hip": -14, "l_knee": 46, "r_knee": 14, "r_hip": 10, "bend": 6},
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
            {**both(arm_down=56, elbow=80, arm_across=4, hip_out=10), "turn": 26, "look": 30},
            {"bend": 40, "pitch": 14, "nod": -6, **both(hip=34, knee=22, arm_forward=70, elbow=12, hip_out=6)},
        ),
        1.2,
        mirrored=True,
    ),
)
# Duration of a sequence, and of the blend between two, in seconds.
_SEGMENT = 4.0
_BLEND = 0.8
FRAME_RATE = 25.0
"""Frame ids per second; every fifth id is stored."""


@dataclass(frozen=True)
class Motion:
    """Motion of one person in a capture as a function of time."""

    order: tuple[int, ...]
    """Order of the sequences (indices), repeated cyclically."""
    phases: tuple[float, ...]
    """Start of each sequence as a share of its period."""
    mirrored: tuple[bool, ...]
    speed: float
    gains: dict[str, float]
    """Factor on the deviation of each angle from the relaxed stance."""
    offsets: dict[str, float]
    """Constant offset of each angle in degrees."""
    heading: tuple[float, float, float]
    """Slow drift of the heading: amplitude in degrees, period in seconds, phase."""
    drift: tuple[float, float, float, float]
    """Slow drift on the floor: amplitude in metres, two periods in seconds, phase."""

    def angles(self, frame_id: int) -> dict[str, float]:
        """Anatomical angles in degrees at a frame id."""
        time = frame_id / FRAME_RATE
        segment, within = int(time // _SEGMENT), time % _SEGMENT
        vector = self._segment_angles(segment, within)
        if segment > 0 and within < _BLEND:
            share = smoothstep(within, 0.0, _BLEND)
            vector = share * vector + (1 - share) * self._segment_angles(segment - 1, within + _SEGMENT)
        relaxed = to_vector(RELAXED)
        gains = np.array([self.gains.get(name, 1.0) for name in ANGLES])
        offsets = np.array([self.offsets.get(name, 0.0) for name in ANGLES])
        vector = relaxed + gains * (vector - relaxed) + offsets
        return dict(zip(ANGLES, clip_to_limits(vector).tolist()))

    def position(self, frame_id: int) -> tuple[float, float, float]:
        """Position of the pelvis on the floor (metres) and drift of the heading (degrees) at a frame id."""
        time = frame_id / FRAME_RATE
        amplitude, period_x, period_y, phase = self.drift
        x = amplitude * np.sin(2 * np.pi * (time / period_x + phase))
        y = amplitude * np.cos(2 * np.pi * (time / period_y + 0.7 * phase))
        degrees, period, shift = self.heading
        return float(x), float(y), float(degrees * np.sin(2 * np.pi * (time / period + shift)))

    def _segment_angles(self, segment: int, within: float) -> np.ndarray:
        slot = segment % len(self.order)
        sequence = SEQUENCES[self.order[slot]]
        keys = [to_vector({**RELAXED, **key}) for key in sequence.keys]
        if sequence.mirrored:
            keys += [mirror(key) for key in keys]
        if self.mirrored[slot]:
            keys = [mirror(key) for key in keys]
        position = self.speed * within / sequence.seconds_per_key + self.phases[slot] * len(keys)
        return closed_curve(keys, position)


def sample_motion(rng: np.random.Generator, stride: float = 1.0) -> Motion:
    """Draw the motion of a person; a `stride` below 1 reduces the movement of the legs."""
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
