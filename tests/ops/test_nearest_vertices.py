"""Which vertex is nearest: the same for every search."""

import importlib.util
import math

import pytest
import torch

from core.ops.nearest_vertices import SEARCH_VARIABLE, nearest_vertices, nearest_vertices_reference
from smpl_renderer.errors import InputError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def sets():
    """Two persons in three moments: points, vertices and a mask."""
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(2, 3, 50, 3, generator=generator)
    points = torch.randn(2, 3, 40, 3, generator=generator)
    mask = torch.rand(2, 3, 40, generator=generator) < 0.5
    mask[0, 0] = False
    return [x.to(DEVICE) for x in (points, vertices, mask)]


def by_brute_force(points, vertices, mask):
    return (points[..., None, :] - vertices[..., None, :, :]).square().sum(-1).argmin(-1) * mask


def test_many_sets_at_once(sets):
    ids = nearest_vertices(*sets)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, by_brute_force(*sets))


def test_without_a_mask_all_count(sets):
    points, vertices, mask = sets
    assert torch.equal(nearest_vertices(points, vertices), by_brute_force(points, vertices, torch.ones_like(mask)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("masked", [False, True])
def test_points_that_are_not_finite_get_index_0_as_the_reference_gives_them(sets, value, masked):
    points, vertices, mask = sets
    mask = mask if masked else None
    points[0, 1, :7, 2] = value
    ids = nearest_vertices(points, vertices, mask)
    flat = [x if x is None else x.flatten(0, 1) for x in (points, vertices, mask)]
    assert (ids[0, 1, :7] == 0).all() and (ids[0, 1] > 0).any()
    assert torch.equal(ids.flatten(0, 1), nearest_vertices_reference(*flat))


@pytest.mark.parametrize("package", ["torch_cluster", "pytorch3d"])
def test_optional_packages_find_the_same(sets, package, monkeypatch):
    pytest.importorskip(package)
    expected = by_brute_force(*sets)
    assert torch.equal(nearest_vertices(*sets, search=package), expected)
    monkeypatch.setenv(SEARCH_VARIABLE, package)
    assert torch.equal(nearest_vertices(*sets), expected)


def test_search_that_is_not_there(sets, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="torch_cluster: it is not installed"):
        nearest_vertices(*sets, search="torch_cluster")


def test_search_that_does_not_exist(sets, monkeypatch):
    monkeypatch.setenv(SEARCH_VARIABLE, "guess")
    with pytest.raises(InputError, match="no search is called 'guess'"):
        nearest_vertices(*sets)
