"""Steps of the derivation of the stand-in body, on small meshes. The whole needs a download and a minute."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scripts.standin.correctives import fit_correctives
from scripts.standin.decimate import DecimationTask, decimate
from scripts.standin.halfedge import CollapsibleMesh
from scripts.standin.landmarks import SMPL_LANDMARKS, landmark_order
from scripts.standin.makehuman import LEVELS, sample_adults, target_shares
from scripts.standin.regressors import fit_shape_space, sparse_weights, surface_joints
from scripts.standin.skeleton import chain_rotations, joint_of_bone, joint_transforms, mirrored_joints, skin
from scripts.standin.surface import Surface
from smpl_renderer.body_model import JOINT_NAMES, SMPL_PARENTS


def symmetric_sphere(rings: int = 9, segments: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and mirror map (in x) of a sphere of 5 cm."""
    polar = np.pi * np.arange(1, rings + 1) / (rings + 1)
    around = 2 * np.pi * np.arange(segments) / segments
    grid = np.stack(
        [
            np.outer(np.sin(polar), np.sin(around)),
            np.outer(np.cos(polar), np.ones(segments)),
            np.outer(np.sin(polar), np.cos(around)),
        ],
        axis=-1,
    )
    vertices = 0.05 * np.concatenate([grid.reshape(-1, 3), [[0, 1, 0], [0, -1, 0]]])
    top, bottom = len(vertices) - 2, len(vertices) - 1
    faces = []
    for i in range(segments):
        j = (i + 1) % segments
        faces.append([top, i, j])
        faces.append([bottom, (rings - 1) * segments + j, (rings - 1) * segments + i])
        for ring in range(rings - 1):
            a, b, c, d = (r * segments + s for r, s in ((ring, i), (ring + 1, i), (ring + 1, j), (ring, j)))
            # Mirrored diagonals in the two halves.
            faces += [[a, b, c], [a, c, d]] if i < segments // 2 else [[a, b, d], [b, c, d]]
    ring_mirror = (-np.arange(segments)) % segments
    mirror = np.concatenate([ring * segments + ring_mirror for ring in range(rings)] + [[top, bottom]])
    return 0.5 * (vertices + vertices[mirror] * [-1, 1, 1]), np.array(faces), mirror


def task_for(vertices, mirror, **changes) -> DecimationTask:
    count = len(vertices)
    options = {
        "importance": np.ones(count),
        "hidden": np.zeros(count, bool),
        "pinned": np.zeros(count, bool),
        **changes,
    }
    return DecimationTask(positions=np.stack([vertices, 1.2 * vertices]), mirror=mirror, **options)


def edge_uses(faces: np.ndarray) -> dict[tuple[int, int], int]:
    """Number of occurrences of each directed edge: 1 for all on a closed, consistently oriented surface."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return {
        tuple(edge): count for edge, count in zip(*(x.tolist() for x in np.unique(edges, axis=0, return_counts=True)))
    }


def test_decimation_keeps_a_closed_symmetric_surface():
    vertices, faces, mirror = symmetric_sphere()
    pinned = np.zeros(len(vertices), bool)
    pinned[[5, mirror[5]]] = True
    target = len(vertices) - 61
    small = decimate(
        Surface(faces, faces, np.zeros(len(faces), int)), task_for(vertices, mirror, pinned=pinned), target
    )

    assert len(small.kept) == target
    assert len(small.surface.faces) == 2 * target - 4  # Euler: one closed surface without handles
    uses = edge_uses(small.surface.faces)
    assert set(uses.values()) == {1} and all((b, a) in uses for a, b in uses)
    kept = set(small.kept.tolist())
    assert {int(mirror[v]) for v in kept} == kept
    assert {5, int(mirror[5])} <= kept
    radii = np.linalg.norm(vertices[small.kept][small.surface.faces].mean(1), axis=1)
    assert radii.min() > 0.04  # flat faces lie slightly inside of the sphere


def test_hidden_vertices_are_removed_first():
    vertices, faces, mirror = symmetric_sphere()
    hidden = (vertices[:, 2] > 0.03) & (np.abs(vertices[:, 0]) < 0.035)
    surface = Surface(faces, faces, np.zeros(len(faces), int))
    small = decimate(surface, task_for(vertices, mirror, hidden=hidden), len(vertices) - int(hidden.sum()))
    assert set(small.kept.tolist()) == set(np.flatnonzero(~hidden).tolist())
    assert not small.stuck


def test_decimation_raises_if_no_collapse_is_possible():
    vertices, faces, mirror = symmetric_sphere()
    task = task_for(vertices, mirror, pinned=np.ones(len(vertices), bool))
    with pytest.raises(RuntimeError, match="stuck"):
        decimate(Surface(faces, faces, np.zeros(len(faces), int)), task, 10)


def test_collapses_can_be_undone():
    _, faces, _ = symmetric_sphere()
    mesh, untouched = (CollapsibleMesh(faces, faces, int(faces.max()) + 1) for _ in range(2))
    for u in range(0, 40, 3):
        v = min(mesh.neighbors(u))
        assert mesh.keeps_topology(u, v)
        undo = mesh.collapse(u, v)
        assert not mesh.vertex_faces[u] and u not in mesh.neighbors(v)
        mesh.restore(undo)
        assert (mesh.faces, mesh.uvs, mesh.vertex_faces) == (untouched.faces, untouched.uvs, untouched.vertex_faces)


def test_collapses_along_texture_seams_keep_them():
    """Two charts with disjoint corner indices meet in the plane x = 0."""
    vertices, faces, _ = symmetric_sphere()
    on_left = vertices[faces, 0].mean(1) > 0
    uv_faces = faces + np.where(on_left, 0, 1000)[:, None]
    mesh = CollapsibleMesh(faces, uv_faces, len(vertices))
    segments = 16
    u, v = 2 * segments, 3 * segments  # both at x = 0
    assert mesh.is_on_seam(u) and mesh.is_seam_edge(u, v) and not mesh.is_seam_edge(u, u + 1)
    mesh.collapse(u, v)
    for face, corners, uvs, left in zip(range(len(faces)), mesh.faces, mesh.uvs, on_left):
        if corners is not None:
            assert uvs == [corner + (0 if left else 1000) for corner in corners], face


def test_shares_of_targets_are_products_of_interpolation_weights():
    people = {name: np.array([0.5]) for name in (*LEVELS, *LEVELS["race"])}
    people.update(gender=np.array([1.0]), age=np.array([5 / 6]), weight=np.array([0.75]), asian=np.array([1.0]))
    levels = [("female", "young"), ("female", "old", "maxweight"), ("male",), ("averageweight",), ("asian",)]
    np.testing.assert_allclose(target_shares(people, levels), [[0.5, 0.25, 0.0, 0.5, 0.5]])


def test_sampled_adults_are_repeatable():
    first, again, other = (sample_adults(20, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for name, values in first.items():
        assert ((values >= 0) & (values <= 1)).all(), name
        np.testing.assert_array_equal(values, again[name])
    assert (first["age"] >= 2 / 3).all()
    assert (first["weight"] != other["weight"]).all()


@pytest.mark.parametrize(
    ("bone", "joint"),
    [
        *[
            ("root", "pelvis"),
            ("pelvis.L", "pelvis"),
            ("spine05", "pelvis"),
            ("spine03", "spine1"),
            ("spine01", "spine3"),
        ],
        *[("breast.R", "spine3"), ("clavicle.L", "left_collar"), ("shoulder01.R", "right_collar")],
        *[("upperarm02.L", "left_shoulder"), ("lowerarm01.R", "right_elbow"), ("metacarpal3.L", "left_wrist")],
        *[("finger1-1.L", "left_wrist"), ("finger1-2.L", "left_hand"), ("finger3-1.R", "right_hand")],
        *[("upperleg01.L", "left_hip"), ("foot.R", "right_ankle"), ("toe2-1.L", "left_foot")],
        *[("neck02", "neck"), ("head", "head"), ("jaw", "head"), ("eye.L", "head")],
    ],
)
def test_joints_of_bones(bone, joint):
    assert joint_of_bone(bone) == joint


def test_mirroring_joints_twice_is_the_identity():
    mirror = mirrored_joints()
    assert [JOINT_NAMES[j] for j in mirror[:4]] == ["pelvis", "right_hip", "left_hip", "spine1"]
    np.testing.assert_array_equal(mirror[mirror], np.arange(24))


def test_regressed_joints_are_averages_of_vertices():
    generator = np.random.default_rng(0)
    vertices, _, mirror = symmetric_sphere()
    sizes = generator.uniform(0.8, 1.2, (30, 1, 3))
    skins = vertices * sizes
    wanted = np.zeros((24, len(vertices)))
    for joint in range(24):
        wanted[joint, generator.choice(len(vertices), 4, replace=False)] = 0.25
    wanted = 0.5 * (wanted + wanted[mirrored_joints()][:, mirror])
    regressor = surface_joints(skins, wanted @ skins, mirror)
    assert (regressor >= 0).all()
    np.testing.assert_allclose(regressor.sum(1), 1)
    np.testing.assert_allclose(regressor @ skins, wanted @ skins, atol=2e-3)


def test_shape_space_recovers_the_directions_of_its_bodies():
    generator = np.random.default_rng(0)
    vertices, _, mirror = symmetric_sphere()
    directions = generator.normal(size=(2, len(vertices), 3)) * 0.01
    directions = directions + directions[:, mirror] * [-1, 1, 1]
    bodies = vertices + np.einsum("pk,kvc->pvc", generator.normal(size=(40, 2)), directions)
    space = fit_shape_space(bodies, mirror, num_components=2)
    assert space.explained == pytest.approx(1)
    np.testing.assert_array_equal(space.mean, space.mean[mirror] * [-1, 1, 1])
    flat = space.components.reshape(-1, 2)
    betas = np.linalg.lstsq(flat, (bodies - space.mean).reshape(40, -1).T, rcond=None)[0]
    np.testing.assert_allclose(betas.std(1, ddof=1), 1)  # unit deviation over these people
    np.testing.assert_allclose((flat @ betas).T.reshape(bodies.shape) + space.mean, bodies, atol=1e-12)


def test_sparse_weights_are_the_largest_and_sum_to_one():
    weights = sparse_weights(np.array([[0.4, 0.3, 0.15, 0.1, 0.05], [0.996, 0.004, 0, 0, 0]]))
    np.testing.assert_allclose(weights, [[0.4 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.1 / 0.95, 0], [1, 0, 0, 0, 0]])


def test_landmarks_have_the_indices_of_smpl():
    generator = np.random.default_rng(0)
    vertices = generator.normal(size=(6890, 3))
    wanted = dict(zip(SMPL_LANDMARKS, generator.choice(6890, len(SMPL_LANDMARKS), replace=False)))
    order, error = landmark_order(vertices, {name: vertices[vertex] for name, vertex in wanted.items()})
    assert error == 0
    np.testing.assert_array_equal(np.sort(order), np.arange(6890))
    for name, index in SMPL_LANDMARKS.items():
        assert order[index] == wanted[name], name


def test_correctives_keep_a_bent_elbow_from_collapsing():
    """A tube along x around the left elbow, bent by 90 degrees: linear skinning makes it thin."""
    joints = np.zeros((24, 3))
    joints[18], joints[20:] = [0.25, 0, 0], [0.5, 0, 0]
    along, around = np.meshgrid(
        np.linspace(0.15, 0.35, 9), np.linspace(0, 2 * np.pi, 12, endpoint=False), indexing="ij"
    )
    tube = np.stack([along, 0.04 * np.cos(around), 0.04 * np.sin(around)], axis=-1).reshape(-1, 3)
    weights = np.zeros((len(tube), 24))
    weights[:, 18] = np.clip((tube[:, 0] - 0.2) / 0.1, 0, 1)
    weights[:, 16] = 1 - weights[:, 18]
    posedirs = fit_correctives(tube, joints, weights, np.random.default_rng(0))
    assert posedirs.shape == (len(tube), 3, 207)
    used = np.flatnonzero(np.abs(posedirs).max((0, 1)))
    assert set(used // 9 + 1) == {18}  # features of the bent joint only

    local = np.tile(np.eye(3), (24, 1, 1))
    local[18] = Rotation.from_rotvec([0, -np.pi / 2, 0]).as_matrix()
    world = chain_rotations(local)
    shifts = joint_transforms(joints, world)[1]
    corrected = tube + posedirs @ (local[1:] - np.eye(3)).ravel()
    middle = np.isclose(tube[:, 0], 0.25)
    thickness = []
    for points in (tube, corrected):
        posed = skin(points, weights, world, shifts)[middle]
        thickness.append(np.linalg.norm(posed - posed.mean(0), axis=1).min())
    assert thickness[0] < 0.03 < 0.034 < thickness[1]


def test_joint_transforms_follow_the_chain():
    generator = np.random.default_rng(0)
    joints = generator.normal(size=(24, 3))
    world = chain_rotations(Rotation.random(24, random_state=0).as_matrix())
    posed, shifts = joint_transforms(joints, world)
    np.testing.assert_allclose(posed, np.einsum("jab,jb->ja", world, joints) + shifts)
    for joint, parent in enumerate(SMPL_PARENTS[1:], start=1):  # bones keep their lengths and their joints
        np.testing.assert_allclose(world[parent] @ joints[joint] + shifts[parent], posed[joint])
