"""Points on one body's surface for the vertices of another."""

import numpy as np
import pytest
import torch
from random_bodies import random_params
from remeshed_body import remeshed
from scipy.optimize import minimize

from smpl_renderer.correspondence import aligned_vertices, closest_barycentrics, find_correspondence


def test_closest_points_of_triangles_minimise_the_distance():
    rng = np.random.default_rng(0)
    triangles, points = rng.normal(size=(40, 3, 3)), 2 * rng.normal(size=(40, 3))
    found = closest_barycentrics(points, triangles)
    assert (found >= 0).all() and np.allclose(found.sum(-1), 1)
    for triangle, point, barycentrics in zip(triangles, points, found):

        def distance(x: np.ndarray, triangle: np.ndarray = triangle, point: np.ndarray = point) -> float:
            return float(np.linalg.norm(np.array([1 - x.sum(), *x]) @ triangle - point))

        inside = [{"type": "ineq", "fun": lambda x: x}, {"type": "ineq", "fun": lambda x: 1 - x.sum()}]
        best = min(minimize(distance, start, constraints=inside).fun for start in ([0.3, 0.3], [0.8, 0.1], [0.1, 0.8]))
        assert np.linalg.norm(barycentrics @ triangle - point) == pytest.approx(best, abs=1e-4)


def test_degenerate_triangles_have_closest_points():
    line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert closest_barycentrics(np.array([1.5, 1, 0]), line) @ line == pytest.approx([1.5, 0, 0])


@pytest.mark.slow
def test_vertices_in_another_order_correspond_to_themselves(body):
    other, order = remeshed(body)
    found = find_correspondence(other, body)
    nearest = found.corners.gather(1, found.weights.argmax(1, keepdim=True))[:, 0]
    assert torch.equal(nearest, torch.from_numpy(order)) and found.weights.amax(1).min() > 0.999
    assert found.distances.max() < 1e-5


def test_another_mesh_of_the_same_surface(body):
    """Values that are functions of the surface keep theirs; creases of lips and eyes may be off by millimetres."""
    other, _ = remeshed(body, new_vertices=2000)
    assert other.num_vertices == body.num_vertices + 2000
    params = random_params(1)
    moved = find_correspondence(other, body).transfer(body(params).vertices[0])
    errors = (moved - other(params).vertices[0]).norm(dim=-1)
    assert errors.median() < 1e-5 and errors.max() < 0.02


def test_parts_of_bodies_with_other_proportions_correspond(body):
    """Taller, heavier and 1.2 times as large: each vertex is matched with a point that the same joints move."""
    other, _ = remeshed(body, new_vertices=500)
    betas = torch.tensor([2.0, -2.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    other.v_template = 1.2 * other.shape_vertices(betas)
    difference = find_correspondence(other, body).transfer(body.lbs_weights) - other.lbs_weights
    shared = 1 - difference.abs().sum(-1) / 2
    assert shared.mean() > 0.95 and shared.min() > 0.2


def test_aligned_limbs_end_at_the_joints_of_the_other_body(body):
    other, _ = remeshed(body)
    other.v_template = 0.8 * other.shape_vertices(torch.full((10,), 0.5))
    vertices = torch.from_numpy(aligned_vertices(other, body)).float()
    assert torch.allclose(other.rest_joints(vertices), body.rest_joints(body.v_template), atol=0.02)
