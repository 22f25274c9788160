"""Posing of a few points of a body: a subset of its vertices, its joints and its landmarks, for frames of one shape.

A fit evaluates a body hundreds of times, and a tenth of the vertices suffices for its energy.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting.landmarks import LandmarkTable
from smpl_renderer.normals import vertex_normals
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.tensor_structure import TensorStructure
from smpl_renderer.types import BodyParams


@dataclass(frozen=True)
class Pose(TensorStructure):
    """Bodies of F frames that share shape and scale, with rotations as matrices."""

    rotations: Float[Tensor, "F J 3 3"]
    """Rotation of each joint relative to its parent; the first is the root's in the world."""
    transl: Float[Tensor, "F 3"]
    betas: Float[Tensor, " S"]
    scale: Float[Tensor, ""]

    @staticmethod
    def from_params(params: BodyParams) -> "Pose":
        """Convert fits with batch axis F; shape and scale are the mean over frames."""
        pose = torch.cat([params.global_orient, params.body_pose], -1)
        rotations = axis_angle_to_matrix(pose.unflatten(-1, (-1, 3)))
        return Pose(rotations, params.transl, params.betas.mean(0), params.scale.mean())

    def to_params(self) -> BodyParams:
        """Convert to parameters with axis-angle vectors."""
        pose = matrix_to_axis_angle(self.rotations)
        frames = len(self.transl)
        return BodyParams(
            betas=self.betas.expand(frames, -1).clone(),
            global_orient=pose[:, 0],
            body_pose=pose[:, 1:].flatten(1),
            transl=self.transl,
            scale=self.scale.expand(frames).clone(),
        )


@dataclass(frozen=True)
class PosedPoints(TensorStructure):
    """Points of posed bodies in the world, in metres."""

    joints: Float[Tensor, "F J 3"]
    orientations: Float[Tensor, "F J 3 3"]
    """World rotation of each joint; the identity in the rest pose."""
    points: Float[Tensor, "F N 3"]
    normals: Float[Tensor, "F N 3"]
    """Normals of the surface, about of unit length."""
    landmarks: Float[Tensor, "F L 3"]


class PointModel:
    """A body restricted to some of its vertices, with landmarks.

    Args:
        body: With SMPL's kinematic tree.
        vertex_ids: Vertices that are posed.
        table: Landmarks that are posed besides; None for none.
    """

    def __init__(self, body: BodyModel, vertex_ids: Int[Tensor, " N"], table: LandmarkTable | None = None):
        device = body.v_template.device
        ids = vertex_ids.to(device)
        self.vertex_ids = ids
        self.to_landmarks = None if table is None else table.to(device).from_joints(body.num_joints)
        self.template = body.v_template[ids]
        self.normals = vertex_normals(body.v_template, body.faces)[ids]
        self.shapedirs = body.shapedirs[ids]
        self.posedirs = body.posedirs[ids].flatten(0, 1)  # [3N, 9 (J - 1)]
        self.weights = body.lbs_weights[ids]
        self.joint_template = body.joint_template.unflatten(0, (-1, 3))
        self.joint_dirs = body.joint_dirs.unflatten(0, (-1, 3))
        self.identity = torch.eye(3, device=device)
        rounds, to_bones, is_above = ancestor_matrices(body.parents)
        self.ancestors = [(chosen.to(device), missing.to(device)) for chosen, missing in rounds]
        self.to_bones, self.is_above = to_bones.to(device), is_above.to(device)

    def rest_joints(self, betas: Float[Tensor, " S"]) -> Float[Tensor, "J 3"]:
        """Joints of the shaped rest pose, before scaling."""
        return self.joint_template + self.joint_dirs[..., : len(betas)] @ betas

    def __call__(self, pose: Pose) -> PosedPoints:
        """Pose the points; differentiable in all of `pose`."""
        rest = self.rest_joints(pose.betas)
        joints, orientations = self._chain(pose.rotations, rest)
        shaped = self.template + self.shapedirs[..., : len(pose.betas)] @ pose.betas
        bending = (pose.rotations[:, 1:] - self.identity).flatten(1)
        shaped = shaped + (bending @ self.posedirs.T).unflatten(1, (-1, 3))
        shifts = joints - (orientations @ rest[..., None])[..., 0]
        transforms = torch.cat([orientations, shifts[..., None]], -1).flatten(2)  # [F, J, 12]
        blended = (self.weights @ transforms).unflatten(-1, (3, 4))
        points = (blended[..., :3] * shaped[..., None, :]).sum(-1) + blended[..., 3]

        def place(x: Tensor) -> Tensor:
            return pose.scale * x + pose.transl[:, None]

        landmarks = points[:, :0]
        if self.to_landmarks is not None:
            frames = torch.cat([orientations, joints[..., None]], -1).transpose(1, 2)  # [F, 3, J, 4]
            landmarks = (frames.flatten(2) @ self.to_landmarks).mT
        normals = (blended[..., :3].detach() * self.normals[:, None, :]).sum(-1)
        return PosedPoints(place(joints), orientations, place(points), normals, place(landmarks))

    def _chain(self, rotations: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and orientations of all joints.

        Each round multiplies the rotations of twice as many successive joints. Joints are selected by products with
        0 and 1, as the gradient of an index takes ten launches.
        """
        orientations = rotations
        for chosen, missing in self.ancestors:
            orientations = self._above(orientations, chosen, missing) @ orientations
        bones = (self.to_bones @ rest)[..., None]
        steps = self._above(orientations, *self.ancestors[0]) @ bones
        return self.is_above @ steps[..., 0], orientations

    @staticmethod
    def _above(orientations: Tensor, chosen: Tensor, missing: Tensor) -> Float[Tensor, "F J 3 3"]:
        return (missing + chosen @ orientations.flatten(2)).unflatten(-1, (3, 3))


def ancestor_matrices(
    parents: tuple[int, ...],
) -> tuple[list[tuple[Float[Tensor, "J J"], Float[Tensor, "J 9"]]], Float[Tensor, "J J"], Float[Tensor, "J J"]]:
    """Constant matrices of a kinematic tree, whose first joint is the root and whose parents precede their children.

    Returns:
        The ancestor 1, 2, 4, ... joints above each joint, up to the depth of the tree: a matrix that selects it, and
        the identity where there is none; the matrix from joints to bones, each joint minus its parent; and 1 where a
        joint is an ancestor of another, or that joint itself.
    """
    count = len(parents)
    one_up = torch.zeros(count, count)
    for joint, parent in enumerate(parents[1:], start=1):
        one_up[joint, parent] = 1
    identity = torch.eye(count)
    is_above, rounds, up = identity, [], one_up
    while up.any():
        missing = (up.sum(1) == 0)[:, None] * torch.eye(3).flatten()
        rounds.append((up, missing))
        is_above, up = is_above + up @ is_above, up @ up
    return rounds, identity - one_up, is_above
