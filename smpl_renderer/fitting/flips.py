"""Alternatives to a fit that one camera can hardly distinguish: limbs mirrored in depth, and a person seen from behind.

Seen by one camera, a bone that points towards it looks like one that points away. And single-image networks take some
backs for fronts: they then exchange left and right, and mirror the depth.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting.energy import Energy
from smpl_renderer.fitting.landmarks import LandmarkTable
from smpl_renderer.fitting.limbs import LIMBS, Limb, two_bone_rotations
from smpl_renderer.fitting.observations import Observations
from smpl_renderer.fitting.point_model import PointModel
from smpl_renderer.fitting.projection import project, to_cameras
from smpl_renderer.fitting.robust import geman_mcclure
from smpl_renderer.fitting.variables import Variables
from smpl_renderer.rotations import matrix_to_axis_angle

MIRRORINGS = ((True, True), (False, True), (True, False))
"""Combinations of a limb's two bones to mirror."""
TURN_COST = 3.0
"""Energy of a turn by a right angle between successive frames."""
MARGIN = 1.0
"""Least gain of energy for which an alternative is taken."""


def mirrored_order(table: LandmarkTable) -> list[int]:
    """Index of each landmark's counterpart on the other side of the body."""
    other = {"left": "right", "right": "left"}
    order = []
    for name in table.names:
        side, _, stem = name.partition("_")
        order.append(table.names.index(f"{other[side]}_{stem}" if side in other else name))
    return order


def swap_sides(observations: Observations, where: Bool[Tensor, "F C"], table: LandmarkTable) -> Observations:
    """Exchange left and right landmarks, and mirror the depth of those in 3D, in some frames and cameras."""
    order = mirrored_order(table)

    def pick(values: Tensor | None, mirrored: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        chosen = where.reshape(*where.shape, *[1] * (values.ndim - 2))
        return torch.where(chosen, values[:, :, order] if mirrored is None else mirrored, values)

    world = observations.world_landmarks
    mirrored = None if world is None else world[:, :, order] * world.new_tensor([1.0, 1.0, -1.0])
    return replace(
        observations,
        landmarks=pick(observations.landmarks, None),
        visibility=pick(observations.visibility, None),
        world_landmarks=pick(world, mirrored),
    )


def likely_facing(
    energies: Float[Tensor, "2 F"], forward: Float[Tensor, "2 F 3"], up: Float[Tensor, "F 3"]
) -> Bool[Tensor, " F"]:
    """Choose, for each frame, between two bodies that face opposite ways.

    Successive frames of a video rarely show a turn by more than a right angle, so the most likely sequence has a small
    energy and small turns. Found by dynamic programming (Viterbi).

    Args:
        energies: Energies of both bodies in each frame.
        forward: Directions that both bodies face, in the world.
        up: Against gravity.
    Returns:
        True where the second body is chosen.
    """
    level = normalize(forward - (forward * up).sum(-1, keepdim=True) * up, dim=-1)
    cosines = torch.einsum("afi,bfi->fab", level[:, 1:], level[:, :-1])  # [F - 1, now, before]
    turns = TURN_COST * (1 - cosines)
    cost, choices = energies[:, 0], []
    for frame in range(1, energies.shape[1]):
        arriving = cost + turns[frame - 1]
        choices.append(arriving.argmin(1))
        cost = energies[:, frame] + arriving.min(1).values
    state = cost.argmin()
    path = [state]
    for choice in reversed(choices):
        state = choice[state]
        path.append(state)
    return torch.stack(path[::-1]).bool()


def mirror_limb(
    x: Variables, body: BodyModel, limb: Limb, which: tuple[bool, bool], viewmat: Float[Tensor, "4 4"]
) -> Variables:
    """The same bodies with bones of a limb mirrored in depth, so that its image in a camera is nearly the same.

    Args:
        x: Variables of F frames.
        body: With SMPL's joints.
        limb: The arm or leg.
        which: Mirror the upper bone, the lower bone.
        viewmat: World to camera.
    """
    bodies = x.bodies()
    model = PointModel(body, torch.zeros(1, dtype=torch.int64))
    posed = model(bodies)
    start, middle, end = (posed.joints[:, joint] for joint in (limb.first, limb.middle, limb.last))
    ray = normalize(to_cameras(start[:, None], viewmat[None])[:, 0, 0], dim=-1) @ viewmat[:3, :3]
    bones = []
    for bone, mirrored in zip((middle - start, end - middle), which):
        bones.append(bone - 2 * (bone * ray).sum(-1, keepdim=True) * ray if mirrored else bone)
    parent = posed.orientations[:, limb.parent]
    first, second = two_bone_rotations(limb, model.rest_joints(bodies.betas), parent, *bones)
    pose = x.pose.clone()
    pose[:, limb.first - 1] = matrix_to_axis_angle(first)
    pose[:, limb.middle - 1] = matrix_to_axis_angle(second)
    return replace(x, pose=pose)


def try_flips(
    x: Variables,
    body: BodyModel,
    viewmat: Float[Tensor, "4 4"],
    refine: Callable[[Variables, Tensor], tuple[Variables, Float[Tensor, " N"]]],
) -> Variables:
    """Replace limbs by their mirrored alternatives where that lowers the energy by `MARGIN`.

    Args:
        x: Variables of F frames.
        body: With SMPL's joints.
        viewmat: World to the camera along which limbs are mirrored.
        refine: Takes N bodies and the frame of each; returns them after some steps, with the energy of each.
    """
    frames = torch.arange(len(x.transl), device=x.transl.device)
    candidates = [x] + [mirror_limb(x, body, limb, which, viewmat) for limb in LIMBS for which in MIRRORINGS]
    count = len(candidates)
    together = replace(x.frames(frames.repeat(count)), pose=torch.cat([c.pose for c in candidates]))
    refined, energies = refine(together, frames.repeat(count))
    energies, pose = energies.unflatten(0, (count, -1)), refined.pose.unflatten(0, (count, -1))
    best = x.pose.clone()
    # Each limb is judged by itself, so that several can be replaced in one frame.
    for position, limb in enumerate(LIMBS):
        own = slice(1 + position * len(MIRRORINGS), 1 + (position + 1) * len(MIRRORINGS))
        least, choice = energies[own].min(0)
        better = energies[0] - least > MARGIN
        joints = [limb.first - 1, limb.middle - 1]
        replaced = pose[own][choice, frames][:, joints]
        best[:, joints] = torch.where(better[:, None, None], replaced, best[:, joints])
    return replace(x, pose=best)


@torch.no_grad()
def sides_by_camera(x: Variables, energy: Energy) -> Bool[Tensor, "F C"]:
    """Cameras whose landmarks fit the body better, by `MARGIN`, with left and right exchanged."""
    targets = energy.targets
    pixels, _ = project(energy.model(x.bodies()).landmarks, targets.Ks, targets.viewmats)
    order = mirrored_order(targets.table)
    errors = []
    for projected in (pixels, pixels[:, :, order]):
        squared = ((projected - targets.landmarks) * energy.pixel_sizes[..., None, None]).square().sum(-1)
        squared = squared / targets.landmark_sigmas.square()
        errors.append((targets.landmark_weights * geman_mcclure(squared, energy.weights.landmark_width)).sum(-1))
    return errors[0] - errors[1] > MARGIN
