"""Nearest vertices by every search, against brute force."""

import importlib.util
import math
from typing import get_type_hints

import pytest
import torch

from core.inference.options import InferenceOptions
from core.ops.nearest_vertices import NearestSearch, check_nearest_search, nearest_vertices, nearest_vertices_reference
from core.options import TrainOptions
from smpl_renderer.errors import InputError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def sets():
    """Points, vertices and a mask of two subjects in three frames."""
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(2, 3, 50, 3, generator=generator)
    points = torch.randn(2, 3, 40, 3, generator=generator)
    mask = torch.rand(2, 3, 40, generator=generator) < 0.5
    mask[0, 0] = False
    return [x.to(DEVICE) for x in (points, vertices, mask)]


def by_brute_force(points, vertices, mask):
    return (points[..., None, :] - vertices[..., None, :, :]).square().sum(-1).argmin(-1) * mask


def test_vertices_of_many_sets_equal_brute_force(sets):
    ids = nearest_vertices(*sets)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, by_brute_force(*sets))


def test_without_a_mask_all_points_are_searched(sets):
    points, vertices, mask = sets
    assert torch.equal(nearest_vertices(points, vertices), by_brute_force(points, vertices, torch.ones_like(mask)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("masked", [False, True])
def test_points_that_are_not_finite_get_index_0_as_in_the_reference(sets, value, masked):
    points, vertices, mask = sets
    mask = mask if masked else None
    points[0, 1, :7, 2] = value
    ids = nearest_vertices(points, vertices, mask)
    flat = [x if x is None else x.flatten(0, 1) for x in (points, vertices, mask)]
    assert (ids[0, 1, :7] == 0).all() and (ids[0, 1] > 0).any()
    assert torch.equal(ids.flatten(0, 1), nearest_vertices_reference(*flat))


@pytest.mark.parametrize("package", ["torch_cluster", "pytorch3d"])
def test_searches_by_optional_packages_equal_brute_force(sets, package):
    pytest.importorskip(package)
    check_nearest_search(package)
    assert torch.equal(nearest_vertices(*sets, search=package), by_brute_force(*sets))


def test_a_search_by_a_package_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_nearest_search("auto")
    with pytest.raises(InputError, match=r"nearest torch_cluster is not installed; .* or choose auto"):
        check_nearest_search("torch_cluster")


def test_an_unknown_search_is_refused():
    with pytest.raises(InputError, match="nearest must be one of auto, torch_cluster, pytorch3d, got guess"):
        check_nearest_search("guess")


def test_vertices_nearest_to_points_around_the_body_equal_brute_force(body):
    vertices = body.v_template
    near = vertices[::50]
    points = near + 0.05 * torch.randn(near.shape, generator=torch.Generator().manual_seed(0))
    expected = (points[:, None] - vertices).square().sum(-1).argmin(1)
    assert (nearest_vertices(points, vertices) == expected).all()
    assert len(nearest_vertices(points[:0], vertices)) == 0


@pytest.mark.parametrize("options", [TrainOptions, InferenceOptions])
def test_options_offer_every_search(options):
    assert get_type_hints(options)["nearest"] == NearestSearch
