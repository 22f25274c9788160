"""A body fitted to the posed vertices of another body of SMPL's tree, whose mesh may be any.

A vertex of the other body stays at one place of the skin in all poses. Each is therefore paired with one point on the
surface, the closest in several frames at once: there, what touches in one pose is apart in another. Pairing and fitting
alternate; further frames keep pairs, shape and scale.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.body_model import BodyModel
from smpl_renderer.correspondence import Correspondence, closest_barycentrics
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.fitting.robust import huber
from smpl_renderer.fitting.solver import minimise
from smpl_renderer.fitting.surface import spread_points
from smpl_renderer.fitting.variables import Variables
from smpl_renderer.normals import vertex_normals
from smpl_renderer.rotations import axis_angle_to_matrix
from smpl_renderer.tensor_structure import TensorStructure
from smpl_renderer.types import BodyParams

POINTS = 2000
"""Vertices of the other body that a fit uses, spread evenly: head, hands and feet hold most of SMPL's."""
CANDIDATES = 16
"""Faces by the distance of their centres that are compared for each vertex."""
NORMAL_LENGTH = 0.03
"""Metres by which unit vectors of normals count in distances."""
ROUNDS, ROUND_STEPS, JOINT_STEPS, POSE_STEPS = 6, 40, 80, 120
ACROSS, ALONG, JOINTS, POSE, WIDTH = 0.005, 0.015, 0.03, 0.3, 3.0
"""Standard deviations: metres across and along the surface and between joints, radians from the stored pose. Beyond
`WIDTH` of the former, costs are linear."""
_CHUNK = 1024


@dataclass(frozen=True)
class VertexTargets(TensorStructure):
    """Posed bodies of F frames with W vertices, in the world, in metres."""

    vertices: Float[Tensor, "F W 3"]
    pose: Float[Tensor, "F J 3"]
    """Rotation vectors, from which a fit starts."""
    joints: Float[Tensor, "F J 3"] | None = None
    faces: Int[Tensor, "T 3"] | None = None
    """Without these, the vertices are points without normals."""

    def select(self, index: Tensor) -> "VertexTargets":
        """Some of the frames."""
        joints = None if self.joints is None else self.joints[index]
        return VertexTargets(self.vertices[index], self.pose[index], joints, self.faces)


@dataclass(frozen=True)
class Skin(TensorStructure):
    """What all frames of a subject share."""

    pairs: Correspondence
    """The point on the body's surface for each vertex of the other."""
    chosen: Int[Tensor, " N"]
    """Vertices of the other body whose distances count."""
    betas: Float[Tensor, " S"]
    scale: Float[Tensor, ""]


@dataclass(frozen=True)
class VertexFit(TensorStructure):
    """Bodies of F frames."""

    params: BodyParams
    errors: Float[Tensor, " F"]
    """Mean distance in metres between vertices and their points on the surface."""


def fit_skin(targets: VertexTargets, body: BodyModel) -> Skin:
    """Estimate shape, scale and pairs from some frames of a subject; poses that differ help."""
    x = _start(targets, body, None)
    chosen = spread_points(targets.vertices[0], POINTS)
    all_names = ("root", "pose", "transl", "betas", "log_scale")
    if targets.joints is not None:
        x = minimise(x, _Energy(targets, body), JOINT_STEPS, ("transl", "betas", "log_scale"))
        x = minimise(x, _Energy(targets, body), JOINT_STEPS, all_names)
    for step in range(ROUNDS):
        pairs = _pair(targets, body, x, chosen)
        rate = 1.0 if step < ROUNDS - 2 else 0.3
        x = minimise(x, _Energy(targets, body, pairs, chosen), ROUND_STEPS, all_names, rate=rate)
    return Skin(_pair(targets, body, x), chosen, x.betas, x.log_scale.exp())


def fit_poses(targets: VertexTargets, body: BodyModel, skin: Skin) -> VertexFit:
    """Fit the pose of each frame, with shape, scale and pairs of the subject."""
    x = _start(targets, body, skin)
    names = ("root", "pose", "transl")
    if targets.joints is not None:
        x = minimise(x, _Energy(targets, body), JOINT_STEPS // 2, names)
    x = minimise(x, _Energy(targets, body, skin.pairs[skin.chosen.cpu()], skin.chosen), POSE_STEPS, names)
    params = x.bodies().to_params()
    with torch.no_grad():
        points = torch.stack([skin.pairs.transfer(body(params[i]).vertices) for i in range(len(params.scale))])
    return VertexFit(params, (points - targets.vertices).norm(dim=-1).mean(-1))


def _start(targets: VertexTargets, body: BodyModel, skin: Skin | None) -> Variables:
    """Bodies in the stored poses, moved onto the joints, or onto the mean of the vertices."""
    frames = len(targets.pose)
    betas = targets.pose.new_zeros(body.num_betas) if skin is None else skin.betas
    scale = targets.pose.new_ones(()) if skin is None else skin.scale
    bodies = Pose(axis_angle_to_matrix(targets.pose), targets.pose.new_zeros(frames, 3), betas, scale)
    with torch.no_grad():
        if targets.joints is not None:
            shift = (targets.joints - PointModel(body, torch.zeros(1, dtype=torch.int64))(bodies).joints).mean(1)
        else:
            middles = [_middle(body(params)) for params in map(bodies.to_params().__getitem__, range(frames))]
            shift = 0.5 * (targets.vertices.amin(1) + targets.vertices.amax(1)) - torch.stack(middles)
    unused = targets.pose.new_zeros(1)
    return Variables.start(replace(bodies, transl=shift), unused.expand(1, 3), unused)


def _middle(output) -> Float[Tensor, "3"]:
    """Middle of a body's bounding box, which does not depend on where the vertices are dense."""
    return 0.5 * (output.vertices.amin(0) + output.vertices.amax(0))


class _Energy:
    """Distances of joints (without pairs) or of vertices and joints, and changes of the stored pose."""

    def __init__(
        self,
        targets: VertexTargets,
        body: BodyModel,
        pairs: Correspondence | None = None,
        chosen: Int[Tensor, " N"] | None = None,
    ):
        self.joints, self.pose = targets.joints, targets.pose[:, 1:]
        if pairs is None:
            self.model, self.targets = PointModel(body, torch.zeros(1, dtype=torch.int64)), None
            return
        self.targets = targets.vertices[:, chosen]
        self.model = _surface_points(body, pairs)

    def __call__(self, x: Variables, _silhouettes: bool) -> dict[str, Tensor]:
        posed = self.model(x.bodies())
        terms = {
            "pose": ((x.pose - self.pose) / POSE).square().sum((-1, -2)),
            "shape": 0.1 * x.betas.square().sum().expand(len(x.pose)),
        }
        if self.joints is not None:
            # Joints of two bodies lie at slightly different places, so that with vertices they count less.
            deviation = JOINTS if self.targets is not None else 0.3 * JOINTS
            terms["joints"] = ((posed.joints - self.joints) / deviation).square().sum((-1, -2))
        if self.targets is not None:
            gaps = self.targets - posed.points
            normals = torch.nn.functional.normalize(posed.normals.detach(), dim=-1)
            across = (gaps * normals).sum(-1)
            along = (gaps - across[..., None] * normals).norm(dim=-1)
            terms["across"] = huber(across / ACROSS, WIDTH).mean(-1) * 100
            terms["along"] = huber(along / ALONG, WIDTH).mean(-1) * 100
        return terms


def _surface_points(body: BodyModel, pairs: Correspondence) -> PointModel:
    """Points on the surface as vertices of their own: what poses vertices is interpolated between the corners."""
    model = PointModel(body, pairs.corners[:, 0])
    model.template = pairs.transfer(body.v_template)
    model.normals = torch.nn.functional.normalize(pairs.transfer(vertex_normals(body.v_template, body.faces)), dim=-1)
    model.shapedirs = pairs.transfer(body.shapedirs)
    model.posedirs = pairs.transfer(body.posedirs).flatten(0, 1)
    model.weights = pairs.transfer(body.lbs_weights)
    return model


@torch.no_grad()
def _pair(
    targets: VertexTargets, body: BodyModel, x: Variables, chosen: Int[Tensor, " N"] | None = None
) -> Correspondence:
    """The point on the body's surface closest to each (chosen) vertex in all frames at once, where normals agree."""
    params = x.bodies().to_params()
    posed = [body(params[i]).vertices for i in range(len(params.scale))]
    points = _features(targets.vertices, targets.faces)
    points = points if chosen is None else points[chosen]
    triangles = _features(torch.stack(posed), body.faces if targets.faces is not None else None)[body.faces]
    centers = triangles.mean(1)
    nearest, weights, distances = [], [], []
    for part in points.split(_CHUNK):
        near = torch.cdist(part, centers).topk(min(CANDIDATES, len(centers)), largest=False).indices
        corners = triangles[near].double().cpu().numpy()
        goal = part.double().cpu().numpy()[:, None]
        shares = closest_barycentrics(goal, corners)
        distance = np.linalg.norm((shares[..., None] * corners).sum(-2) - goal, axis=-1)
        best = distance.argmin(1)
        rows = np.arange(len(best))
        nearest.append(near.cpu()[rows, best])
        weights.append(torch.from_numpy(shares[rows, best]))
        distances.append(torch.from_numpy(distance[rows, best]))
    faces = body.faces.cpu()[torch.cat(nearest)]
    return Correspondence(faces, torch.cat(weights).float(), torch.cat(distances).float())


def _features(vertices: Float[Tensor, "F V 3"], faces: Int[Tensor, "T 3"] | None) -> Float[Tensor, "V D"]:
    """Positions in all frames, and normals: distances of these are root mean squares over the frames."""
    parts = [vertices]
    if faces is not None:
        parts.append(NORMAL_LENGTH * torch.stack([vertex_normals(frame, faces) for frame in vertices]))
    joined = torch.cat(parts, -1) / len(vertices) ** 0.5
    return joined.transpose(0, 1).flatten(1)
