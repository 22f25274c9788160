"""Motion of a subject that turns around once with the arms away from the body, as for a video of a still camera."""

from dataclasses import dataclass

import numpy as np

from core.motion.anatomy import ANGLES, LIMITS, RELAXED
from scripts.synthetic.motion import FRAME_RATE

TURN_FRAMES = 200
"""Frame ids of one turn: 8 seconds."""

_A_POSE = {
    **{f"{side}_{name}": angle for side in "lr" for name, angle in (("arm_down", 50), ("elbow", 12), ("hip_out", 5))},
    **{f"{side}_{name}": angle for side in "lr" for name, angle in (("hip_twist", 6), ("fingers", 10), ("collar", -1))},
}
_SWAY = {
    **{f"{side}_{name}": size for side in "lr" for name, size in (("arm_down", 5), ("arm_forward", 5), ("elbow", 5))},
    **{"bend": 2, "lean": 2, "turn": 3, "nod": 4, "look": 5, "tilt": 2, "roll": 1},
}
"""Largest amplitudes of slow swaying, in degrees."""
_STEPS_PER_SECOND = 1.4


@dataclass(frozen=True)
class TurnMotion:
    """One turn of a subject; the same interface as `motion.Motion`."""

    first: int
    """Frame id at which the subject faces the camera."""
    period: float
    """Frame ids of one full turn."""
    direction: int
    """1: to the subject's left; -1: to the right."""
    offsets: dict[str, float]
    """Constant offset of each angle in degrees."""
    sway: dict[str, tuple[float, float, float]]
    """Slow oscillation of angles: amplitude in degrees, period in seconds, phase as a share of it."""
    lift: float
    """Flexion of a knee in a step, in degrees."""

    def angles(self, frame_id: int) -> dict[str, float]:
        """Anatomical angles in degrees at a frame id."""
        time = frame_id / FRAME_RATE
        angles = {name: RELAXED.get(name, 0.0) for name in ANGLES} | _A_POSE
        for name, offset in self.offsets.items():
            angles[name] += offset
        for name, (amplitude, period, phase) in self.sway.items():
            angles[name] += amplitude * np.sin(2 * np.pi * (time / period + phase))
        step = np.sin(np.pi * _STEPS_PER_SECOND * time)
        for side, share in (("l", max(step, 0.0)), ("r", max(-step, 0.0))):
            angles[f"{side}_knee"] += self.lift * share
            angles[f"{side}_hip"] += 0.6 * self.lift * share
            angles[f"{side}_ankle"] += 0.3 * self.lift * share
        angles = {name: float(np.clip(angle, *LIMITS[name])) for name, angle in angles.items()}
        angles["heading"] = self.direction * 360 * (frame_id - self.first) / self.period
        return angles

    def position(self, frame_id: int) -> tuple[float, float, float]:
        """Position of the pelvis on the floor (metres) and drift of the heading (degrees) at a frame id."""
        time = frame_id / FRAME_RATE
        x, y = (0.02 * np.sin(2 * np.pi * (time / period + 0.3)) for period in (3.1, 4.3))
        return float(x), float(y), 0.0


def sample_turn(rng: np.random.Generator, frames: tuple[int, ...]) -> TurnMotion:
    """Draw a turn whose frames are spread over 360 degrees: the frame after the last would face the camera again."""
    span = max(frames) - min(frames)
    names = [name for name in ANGLES if name != "heading"]
    return TurnMotion(
        first=min(frames),
        period=span * len(frames) / (len(frames) - 1) if len(frames) > 1 else float(TURN_FRAMES),
        direction=int(rng.choice([-1, 1])),
        offsets={name: float(rng.normal(0, 2.0)) for name in names},
        sway={
            name: (float(rng.uniform(0, largest)), float(rng.uniform(2.5, 7)), float(rng.uniform(0, 1)))
            for name, largest in _SWAY.items()
        },
        lift=float(rng.uniform(4, 12)),
    )
