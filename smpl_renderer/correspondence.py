"""Correspondence of two bodies with SMPL's joints: the point on one body's surface for each vertex of another's.

Both may have any number and order of vertices, and differ in proportions: limbs are aligned bone by bone first.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from smpl_renderer.body_model import BodyModel
from smpl_renderer.normals import vertex_normals
from smpl_renderer.tensor_structure import TensorStructure

CANDIDATES = 48
"""Faces by the distance of their centres that are compared for each vertex."""
NORMAL_COST, PART_COST = 0.03, 0.1
"""Metres that a point counts as farther away if its normal is opposite, or if no joint moves it as it does the
vertex: a thigh is not matched with the other one, nor an arm with the trunk."""
CHUNK = 1024

Points = Float[np.ndarray, "*batch 3"]


@dataclass(frozen=True)
class Correspondence(TensorStructure):
    """For each of the V vertices of a body, a point on the surface of another."""

    corners: Int[Tensor, "V 3"]
    """Vertices of the other body's face that holds the point."""
    weights: Float[Tensor, "V 3"]
    """Barycentric coordinates of the point."""
    distances: Float[Tensor, " V"]
    """Metres between the vertex, after alignment, and the point."""

    def transfer(self, values: Float[Tensor, "W *dims"]) -> Float[Tensor, "V *dims"]:
        """Values at the points, given those at the other body's W vertices."""
        weights = self.weights.to(values).view(*self.weights.shape, *[1] * (values.ndim - 1))
        return (weights * values[self.corners]).sum(1)


def find_correspondence(body: BodyModel, other: BodyModel) -> Correspondence:
    """Find the point on the surface of `other` for each vertex of `body`, in the mean shapes (about a second).

    The nearest point, where points with another normal or skinned to other joints count as farther away.
    """
    vertices, corners = aligned_vertices(body, other), other.v_template.double().cpu().numpy()
    faces = other.faces.cpu().numpy()
    triangles = corners[faces]
    normals = vertex_normals(torch.from_numpy(vertices), body.faces.cpu()).numpy()
    corner_normals = vertex_normals(torch.from_numpy(corners), other.faces.cpu()).numpy()[faces]
    skinning, corner_skinning = body.lbs_weights.cpu().numpy(), other.lbs_weights.cpu().numpy()[faces]
    _, nearest = KDTree(triangles.mean(1)).query(vertices, k=min(CANDIDATES, len(faces)))
    nearest = nearest.reshape(len(vertices), -1)

    chosen, barycentrics, distances = [], [], []
    for start in range(0, len(vertices), CHUNK):
        part = slice(start, start + CHUNK)
        near = nearest[part]
        points = closest_barycentrics(vertices[part, None], triangles[near])
        distance = np.linalg.norm(_interpolated(points, triangles[near]) - vertices[part, None], axis=-1)
        agreement = (normals[part, None] * _interpolated(points, corner_normals[near])).sum(-1)
        overlap = np.minimum(skinning[part, None], _interpolated(points, corner_skinning[near])).sum(-1)
        best = (distance + NORMAL_COST * (1 - agreement) / 2 + PART_COST * (1 - overlap)).argmin(1)[:, None]
        chosen.append(np.take_along_axis(near, best, 1)[:, 0])
        barycentrics.append(np.take_along_axis(points, best[..., None], 1)[:, 0])
        distances.append(np.take_along_axis(distance, best, 1)[:, 0])
    return Correspondence(
        corners=torch.from_numpy(faces[np.concatenate(chosen)]),
        weights=torch.from_numpy(np.concatenate(barycentrics)).float(),
        distances=torch.from_numpy(np.concatenate(distances)).float(),
    )


def aligned_vertices(body: BodyModel, other: BodyModel) -> Points:
    """Mean shape [V, 3] of `body` with its limbs turned and scaled onto the bones of `other`, by linear blend skinning.

    Each joint is taken to that of `other`, and the directions and lengths from it to its children too. Head, hands and
    feet, which have no children, turn with their parents and scale as the whole body does.
    """
    vertices = body.v_template.double().cpu()
    joints = body.rest_joints(body.v_template).double().cpu().numpy()
    targets = other.rest_joints(other.v_template).double().cpu().numpy()
    matrices = np.zeros((body.num_joints, 3, 3))
    overall = _total_bones(targets, body.parents) / _total_bones(joints, body.parents)
    for joint, parent in enumerate(body.parents):
        children = [child for child, owner in enumerate(body.parents) if owner == joint]
        if not children:
            scale = np.cbrt(np.linalg.det(matrices[parent]))
            matrices[joint] = matrices[parent] * (overall / scale)
            continue
        bones, target_bones = joints[children] - joints[joint], targets[children] - targets[joint]
        rotation = Rotation.align_vectors(target_bones, bones)[0].as_matrix()
        matrices[joint] = rotation * (np.linalg.norm(target_bones) / np.linalg.norm(bones))
    shifts = targets - np.einsum("jab,jb->ja", matrices, joints)
    weights = body.lbs_weights.double().cpu().numpy()
    moved = np.einsum("vj,jab,vb->va", weights, matrices, vertices.numpy(), optimize=True)
    return moved + weights @ shifts


def _total_bones(joints: Points, parents: tuple[int, ...]) -> float:
    return float(np.linalg.norm(joints[1:] - joints[list(parents[1:])], axis=-1).sum())


def _interpolated(
    barycentrics: Float[np.ndarray, "*batch 3"], values: Float[np.ndarray, "*batch 3 D"]
) -> Float[np.ndarray, "*batch D"]:
    return (barycentrics[..., None] * values).sum(-2)


def closest_barycentrics(points: Points, triangles: Float[np.ndarray, "*batch 3 3"]) -> Points:
    """Barycentric coordinates of the point of each triangle that is closest to a point; shapes broadcast.

    Inside, by projection onto the plane; otherwise the closest of the points on the three edges.
    """
    corners = [triangles[..., i, :] for i in range(3)]
    u, v, offset = corners[1] - corners[0], corners[2] - corners[0], points - corners[0]
    uu, uv, vv, uo, vo = ((a * b).sum(-1) for a, b in ((u, u), (u, v), (v, v), (u, offset), (v, offset)))
    determinant = uu * vv - uv * uv
    divisor = np.where(determinant > 1e-18, determinant, 1.0)
    second, third = (vv * uo - uv * vo) / divisor, (uu * vo - uv * uo) / divisor
    result = np.stack([1 - second - third, second, third], -1)
    inside = (determinant > 1e-18) & (result >= 0).all(-1)

    best = np.where(inside, 0.0, np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = corners[j] - corners[i]
        length = np.maximum((edge * edge).sum(-1), 1e-18)
        share = np.clip(((points - corners[i]) * edge).sum(-1) / length, 0, 1)
        distance = ((corners[i] + share[..., None] * edge - points) ** 2).sum(-1)
        closer = distance < best
        on_edge = np.zeros_like(result)
        on_edge[..., i], on_edge[..., j] = 1 - share, share
        result = np.where(closer[..., None], on_edge, result)
        best = np.where(closer, distance, best)
    return result
