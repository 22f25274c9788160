"""Mesh neighbourhoods compared with a breadth-first search, and their laws."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vertex_connectivity
from core.utils.cli import run
from core.utils.ranges import checked
from smpl_renderer.body_files import STANDIN_BODY
from smpl_renderer.body_model import BodyModel
from smpl_renderer.connectivity import (
    build_connectivity,
    load_connectivity,
    ring_neighborhoods,
    save_connectivity,
    vertex_adjacency,
)
from smpl_renderer.errors import InputError


def first_rings(faces) -> list[set[int]]:
    rings = [set() for _ in range(int(faces.max()) + 1)]
    for a, b, c in faces.tolist():
        for u, v in ((a, b), (b, c), (c, a)):
            rings[u].add(v)
            rings[v].add(u)
    return rings


def hops(rings: list[set[int]], start: int, limit: int) -> dict[int, int]:
    """Number of edges from `start` to every vertex within `limit`, by breadth-first search."""
    found, frontier = {start: 0}, {start}
    for ring in range(1, limit + 1):
        frontier = set().union(*(rings[v] for v in frontier)) - found.keys()
        found.update(dict.fromkeys(frontier, ring))
    return found


@pytest.fixture(scope="module")
def connectivity(body):
    return build_connectivity(body, 18)


def test_neighbours_are_ordered_by_ring_and_then_by_distance(body, connectivity):
    rings, positions = first_rings(body.faces), body.v_template.double().numpy()
    for vertex in range(0, body.num_vertices, 53):
        found = hops(rings, vertex, limit=4)
        # Mirrored neighbours are equally far: compare ranks instead of indices, in micrometres.
        ranks = {u: (ring, round(1e6 * np.linalg.norm(positions[u] - positions[vertex]))) for u, ring in found.items()}
        neighbors = connectivity.neighbors[vertex].tolist()
        assert neighbors[0] == vertex and len(set(neighbors)) == 18
        assert [ranks[u] for u in neighbors] == sorted(ranks.values())[:18]
    assert connectivity.mask.all()


def test_first_rings_are_symmetric_and_exclude_the_vertex(body, connectivity):
    rows = torch.arange(body.num_vertices).repeat_interleave(connectivity.crow.diff())
    there = rows * body.num_vertices + connectivity.col
    back = connectivity.col * body.num_vertices + rows
    assert torch.equal(there, back.sort().values)
    assert not (rows == connectivity.col).any()
    assert connectivity.col.numel() == 3 * len(body.faces)  # a closed surface: 3F/2 edges, each in both directions


def test_small_components_are_padded():
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    positions = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [9, 0, 0], [9, 1, 0], [9, 0, 3]], dtype=np.float64)
    neighbors, mask = ring_neighborhoods(vertex_adjacency(faces, 6), positions, 4)
    assert neighbors.tolist() == [[0, 2, 1, 0], [1, 0, 2, 1], [2, 0, 1, 2], [3, 4, 5, 3], [4, 3, 5, 4], [5, 3, 4, 5]]
    assert mask.tolist() == [[True, True, True, False]] * 6


def test_a_vertex_without_faces_has_no_neighbours():
    neighbors, mask = ring_neighborhoods(vertex_adjacency(np.array([[0, 1, 2]]), 4), np.eye(4, 3), 3)
    assert neighbors[3].tolist() == [3, 3, 3] and mask[3].tolist() == [True, False, False]


def test_relabelling_vertices_relabels_neighbours(toy_arrays):
    new = np.random.default_rng(0).permutation(7)  # new[old]
    old = np.argsort(new)
    relabelled = {
        **toy_arrays,
        "f": new[toy_arrays["f"]],
        **{name: toy_arrays[name][old] for name in ("v_template", "shapedirs", "posedirs", "weights")},
        "J_regressor": toy_arrays["J_regressor"][:, old],
    }
    before, after = (build_connectivity(BodyModel(x, name="toy"), 5) for x in (toy_arrays, relabelled))
    np.testing.assert_array_equal(after.neighbors, new[before.neighbors.numpy()][old])
    np.testing.assert_array_equal(after.mask, before.mask.numpy()[old])


def test_a_neighbourhood_of_one_is_the_vertex_itself(toy_body):
    assert build_connectivity(toy_body, 1).neighbors.tolist() == [[v] for v in range(7)]
    with pytest.raises(ValueError, match="num_neighbors"):
        build_connectivity(toy_body, 0)


def test_file_round_trip(tmp_path, body, connectivity, toy_body):
    path = tmp_path / "connectivity.pt"
    save_connectivity(path, connectivity)
    read = load_connectivity(path, body)
    assert read.fingerprint == body.fingerprint
    for name in ("neighbors", "mask", "crow", "col"):
        assert torch.equal(getattr(read, name), getattr(connectivity, name)), name
    with pytest.raises(InputError, match=r"connectivity\.pt: belongs to"):
        load_connectivity(path, toy_body)


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        load_connectivity(tmp_path / "none.pt")
    for content in (b"", b"text"):
        (tmp_path / "broken.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.pt"):
            load_connectivity(tmp_path / "broken.pt")
    torch.save({"neighbors": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt"):
        load_connectivity(tmp_path / "other.pt")


def test_script_writes_the_neighbourhoods(tmp_path, connectivity):
    out = tmp_path / "new folder/out.pt"
    vertex_connectivity.main(body=STANDIN_BODY, out=out)
    assert torch.equal(torch.load(out, weights_only=True)["neighbors"], connectivity.neighbors)


@pytest.mark.parametrize("wrong, named", [({"body": Path("none.pkl")}, "none.pkl"), ({"num_neighbors": 0}, "--num-n")])
def test_script_names_a_wrong_argument_in_one_line(tmp_path, capsys, wrong, named):
    with pytest.raises(SystemExit) as left:
        run(lambda: checked(vertex_connectivity.main)(out=tmp_path / "out.pt", **wrong))
    message = capsys.readouterr().err
    assert left.value.code == 2
    assert named in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())
