"""Built-in motions: seamless loops, authored as key poses in anatomical angles.

A key names the angles that differ from a relaxed stance, in degrees. Keys are joined by a closed Catmull-Rom curve at
equal intervals, and clipped to joint limits. The feet carry the body: the pelvis is placed so that the supporting foot
does not slide, except where a motion travels in place (`treadmill`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.motion.anatomy import ANGLES, RELAXED, both, clip_to_limits, closed_curve, joint_rotations, mirror, to_vector
from core.motion.motion import Motion, leg_length
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

FPS = 30.0
SOLE_HEIGHT = 0.03
"""Metres above the lowest vertex of the rest pose that count as sole."""
SUPPORT_HEIGHT = 0.02
"""Metres above the floor at which a foot carries 1/e of the weight of one that touches it."""

Key = dict[str, float]


@dataclass(frozen=True)
class Sequence:
    """A closed sequence of key poses."""

    keys: tuple[Key, ...]
    seconds_per_key: float
    mirrored: bool = False
    """True if the mirror images of the keys follow them."""
    treadmill: bool = False
    """True if the pelvis stays above one point and the feet slide, as on a treadmill."""
    turns: bool = False
    """True if the body turns once about the vertical axis during the loop."""
    description: str = ""


_WALK = (
    {
        **{"l_hip": 28, "l_knee": 6, "l_ankle": -6, "r_hip": -16, "r_knee": 20, "r_ankle": 16, "r_toes": -22},
        **{"l_arm_forward": -20, "r_arm_forward": 24, "l_elbow": 14, "r_elbow": 28, "turn": 7, "bend": 3},
    },
    {
        **{"l_hip": 8, "l_knee": 10, "r_hip": 18, "r_knee": 56, "r_ankle": 8, "l_arm_forward": -2},
        **{"r_arm_forward": 4, "l_elbow": 18, "r_elbow": 20, "bend": 3},
    },
)
_STEP_TURN = (
    {"l_hip": 12, "l_knee": 26, "look": 10, "turn": 5, "l_arm_forward": -8, "r_arm_forward": 10},
    {"r_hip": 10, "r_knee": 22, "look": 10, "turn": 3, "l_arm_forward": 8, "r_arm_forward": -6},
)
_WAVING = {"r_arm_down": -18, "r_collar": 12, "r_elbow": 70, "r_arm_twist": 60, "lean": -3}
_BALLROOM = (
    {
        **{"l_arm_down": -8, "l_elbow": 72, "l_arm_twist": 45, "r_arm_down": 46, "r_elbow": 66},
        **{"lean": 7, "l_hip": 18, "l_knee": 32, "l_ankle": -10, "r_hip_out": 10, "turn": 12, "look": 16},
    },
    {
        **{"l_arm_down": 36, "r_arm_down": 30, **both(elbow=50, arm_across=26, knee=24, hip=16, ankle=-10)},
        **{"nod": 6},
    },
)

SEQUENCES: dict[str, Sequence] = {
    "idle": Sequence(
        (
            {**both(arm_down=65), "look": 8, "lean": 1.5},
            {**both(arm_down=67), "l_hip": 4, "l_knee": 8, "l_ankle": -4, "lean": -1.5, "look": -8, "nod": 2},
            {**both(arm_down=65, elbow=18), "r_hip": 3, "r_knee": 6, "r_ankle": -3, "nod": 4},
        ),
        1.4,
        description="standing, with small shifts of weight",
    ),
    "walk": Sequence(_WALK, 0.28, mirrored=True, treadmill=True, description="walking in place"),
    "wave": Sequence(
        (
            {**_WAVING, "r_elbow": 50, "look": -8, "tilt": -4},
            {**_WAVING, "r_elbow": 88, "look": -8, "tilt": 2},
            {**_WAVING, "r_elbow": 52, "look": -6, "tilt": -2},
            {**_WAVING, "r_elbow": 90, "look": -4, "tilt": 3},
        ),
        0.32,
        description="waving with the right hand",
    ),
    "turn": Sequence(_STEP_TURN * 4, 0.4, turns=True, description="one turn on the spot, in small steps"),
    "dance": Sequence(_BALLROOM, 0.5, mirrored=True, description="a dance step from side to side"),
    "sit": Sequence(
        (
            {},
            {
                **both(hip=78, knee=88, ankle=-12, hip_out=8, arm_down=64, arm_forward=30, elbow=42),
                **{"pitch": 18, "bend": 12, "nod": -8},
            },
            {
                **both(hip=84, knee=90, ankle=-8, hip_out=9, arm_down=62, arm_forward=30, elbow=52),
                **{"pitch": 4, "bend": 6, "turn": 5, "look": 10},
            },
            {
                **both(hip=78, knee=88, ankle=-12, hip_out=8, arm_down=64, arm_forward=34, elbow=40),
                **{"pitch": 20, "bend": 14, "nod": -8},
            },
        ),
        1.0,
        description="sitting down on a chair that is not shown, and standing up",
    ),
    "squat": Sequence(
        (
            both(arm_forward=14, elbow=16),
            both(hip=48, knee=60, ankle=-20, hip_out=10, hip_twist=10, arm_forward=48, elbow=18)
            | {"pitch": 14, "bend": 8, "nod": -10},
            both(hip=88, knee=104, ankle=-26, hip_out=14, hip_twist=16, arm_down=62, arm_forward=76, elbow=16)
            | {"pitch": 24, "bend": 14, "nod": -18},
            both(hip=48, knee=60, ankle=-20, hip_out=10, hip_twist=10, arm_forward=48, elbow=18)
            | {"pitch": 14, "bend": 8, "nod": -10},
        ),
        0.55,
        description="squats with the arms stretched forward",
    ),
}
"""Built-in motions by name."""


def builtin_motion(name: str, body: BodyModel) -> Motion:
    """A built-in motion of the mean shape of `body`, at 30 frames per second.

    Args:
        name: One of `SEQUENCES`.
        body: Any body of SMPL's tree; its rest pose decides where the soles are.
    Raises:
        InputError: If there is no motion of that name.
    """
    if name not in SEQUENCES:
        raise InputError(f"no built-in motion is called {name!r}; there are {', '.join(SEQUENCES)}")
    sequence = SEQUENCES[name]
    keys = [to_vector(RELAXED | key) for key in sequence.keys]
    if sequence.mirrored:
        keys += [mirror(key) for key in keys]
    count = round(len(keys) * sequence.seconds_per_key * FPS)
    positions = np.arange(count) * (len(keys) / count)
    poses = np.stack([clip_to_limits(closed_curve(keys, at)) for at in positions], -1)
    joints = torch.from_numpy(joint_rotations(dict(zip(ANGLES, poses)))).to(body.v_template)  # [T, J, 3]
    orient = joints[:, 0]
    if sequence.turns:
        heading = torch.arange(count).to(orient) * (2 * torch.pi / count)
        about_y = torch.stack([0 * heading, heading, 0 * heading], -1)
        orient = matrix_to_axis_angle(axis_angle_to_matrix(about_y) @ axis_angle_to_matrix(orient))
    betas = torch.zeros(body.num_betas).to(orient)
    body_pose = joints[:, 1:].flatten(1)
    place: Callable[..., Tensor] = _on_treadmill if sequence.treadmill else _on_feet
    return Motion(
        global_orient=orient,
        body_pose=body_pose,
        pelvis=place(orient, body_pose, body, betas),
        fps=FPS,
        name=name,
        loops=True,
        leg_length=leg_length(body, betas),
    )


def sole_vertices(
    orient: Float[Tensor, "T 3"], body_pose: Float[Tensor, "T 69"], body: BodyModel, betas: Float[Tensor, " S"]
) -> tuple[Float[Tensor, "T 2 n 3"], Float[Tensor, "T 3"]]:
    """Vertices of the left and the right sole, and the pelvis, of bodies without translation."""
    count = len(orient)
    params = BodyParams(betas.expand(count, -1), orient, body_pose, 0 * orient, torch.ones_like(orient[:, 0]))
    output = body(params)
    part = body.lbs_weights.argmax(1)
    low = body.v_template[:, 1] < body.v_template[:, 1].min() + SOLE_HEIGHT
    feet = []
    for side in ("left", "right"):
        joints = torch.tensor([JOINT_NAMES.index(f"{side}_{name}") for name in ("ankle", "foot")], device=part.device)
        feet.append(torch.nonzero(low & torch.isin(part, joints))[:, 0])
    size = min(map(len, feet))
    return torch.stack([output.vertices[:, ids[:size]] for ids in feet], 1), output.joints[:, 0]


def _on_treadmill(orient: Tensor, body_pose: Tensor, body: BodyModel, betas: Tensor) -> Float[Tensor, "T 3"]:
    """Pelvis above one point; the lower sole touches the floor."""
    soles, pelvis = sole_vertices(orient, body_pose, body, betas)
    height = pelvis[:, 1] - soles[..., 1].flatten(1).amin(1)
    return torch.stack([0 * height, height, 0 * height], -1)


def _on_feet(orient: Tensor, body_pose: Tensor, body: BodyModel, betas: Tensor) -> Float[Tensor, "T 3"]:
    """Pelvis such that the soles that carry the body do not slide, and the lowest one touches the floor.

    Each frame moves by the mean displacement of the soles between it and the one before, weighted by how close they are
    to the floor. What is left after one loop is spread evenly over it.
    """
    soles, pelvis = sole_vertices(orient, body_pose, body, betas)
    floor = soles[..., 1].flatten(1).amin(1)
    relative = soles.mean(2) - pelvis[:, None]  # [T, 2, 3], from the pelvis to each sole
    lift = soles[..., 1].amin(2) - floor[:, None]  # [T, 2]
    following = relative.roll(-1, 0)
    weights = torch.softmax(-(lift + lift.roll(-1, 0)) / (2 * SUPPORT_HEIGHT), 1)
    steps = (weights[..., None] * (relative - following)).sum(1)  # displacement of the pelvis to the next frame
    steps = steps - steps.mean(0)
    path = torch.cat([torch.zeros_like(steps[:1]), steps[:-1].cumsum(0)])
    path = path - path.mean(0)
    return torch.stack([path[:, 0], pelvis[:, 1] - floor, path[:, 2]], -1)
