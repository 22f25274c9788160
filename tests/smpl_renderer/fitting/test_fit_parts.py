"""Parts of the fitting: posed points, limbs, ranges, the pose prior, projections, masks and starts."""

import math
from dataclasses import replace

import pytest
import torch
from fit_scenes import FOCAL, HEIGHT, WIDTH, observe_bodies, ring_cameras, standing_bodies, with_skirts
from random_bodies import random_params

from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.fitting import Silhouettes
from smpl_renderer.fitting.bones import bone_targets
from smpl_renderer.fitting.energy import Energy
from smpl_renderer.fitting.exponential import exponential
from smpl_renderer.fitting.flips import likely_facing, mirror_limb, mirrored_order, swap_sides
from smpl_renderer.fitting.initial import initial_rotations, place_by_landmarks, relaxed_rotations, triangulate
from smpl_renderer.fitting.joint_limits import MARGIN, joint_ranges, limit_penalty
from smpl_renderer.fitting.landmarks import LAYOUTS, landmark_table
from smpl_renderer.fitting.limbs import LIMBS, shortest_rotation, two_bone_rotations
from smpl_renderer.fitting.point_model import PointModel, Pose, ancestor_matrices
from smpl_renderer.fitting.pose_prior import load_pose_prior
from smpl_renderer.fitting.projection import pixel_sizes, project
from smpl_renderer.fitting.silhouettes import silhouette_targets
from smpl_renderer.fitting.surface import cloth_parts, height_rows, sole_vertices, spread_vertices
from smpl_renderer.fitting.targets import prepare_targets
from smpl_renderer.fitting.variables import Variables
from smpl_renderer.fitting.weights import Weights
from smpl_renderer.normals import vertex_normals
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_posed_points_are_those_of_the_body(body):
    params = random_params(2, seed=3)
    params = params.__class__(
        **{**vars(params), "betas": params.betas[:1].expand(2, -1), "scale": torch.full((2,), 1.3)}
    )
    ids = torch.arange(0, body.v_template.shape[0], 97)
    posed, expected = PointModel(body, ids)(Pose.from_params(params)), body(params)
    torch.testing.assert_close(posed.points, expected.vertices[:, ids], atol=2e-6, rtol=0)
    torch.testing.assert_close(posed.joints, expected.joints, atol=2e-6, rtol=0)
    # Normals are those of the rest pose, skinned: near the posed mesh's.
    true = torch.stack([vertex_normals(v, body.faces)[ids] for v in expected.vertices])
    assert (posed.normals * true).sum(-1).median() > 0.95


def test_poses_survive_the_round_trip(body):
    params = random_params(2, seed=1)
    again = Pose.from_params(params).to_params()
    torch.testing.assert_close(again.body_pose, params.body_pose, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.transl, params.transl)


def test_ancestors_and_bones_of_the_tree(body):
    rounds, to_bones, is_above = ancestor_matrices(body.parents)
    chain = [15]  # head
    while body.parents[chain[-1]] >= 0:
        chain.append(body.parents[chain[-1]])
    assert is_above[15].nonzero().flatten().tolist() == sorted(chain)
    for step, (chosen, missing) in enumerate(rounds):
        above = chain[2**step :][:1]
        assert chosen[15].nonzero().flatten().tolist() == above
        torch.testing.assert_close(missing[15].reshape(3, 3), torch.eye(3) * (not above))
    assert 2 ** len(rounds) > is_above.sum(1).max() - 1  # all rotations of the longest chain are multiplied
    joints = torch.arange(24.0)
    assert (to_bones @ joints)[15] == 15 - body.parents[15] and (to_bones @ joints)[0] == 0


def test_exponentials_and_their_gradients_are_those_of_rotation_vectors(rng):
    vectors = torch.randn(5, 4, 3, generator=rng) * torch.tensor([0.0, 1e-7, 1e-3, 2.0])[:, None]
    cotangents = torch.randn(5, 4, 3, 3, generator=rng)
    results = []
    for function, dtype in ((exponential, torch.float32), (axis_angle_to_matrix, torch.float64)):
        leaf = vectors.to(dtype).requires_grad_()
        matrices = function(leaf)
        results.append((matrices, torch.autograd.grad((matrices * cotangents).sum(), leaf)[0]))
    for own, expected in zip(*results):
        torch.testing.assert_close(own.double(), expected, atol=2e-6, rtol=0)


def test_the_merged_pose_prior_is_the_prior(rng):
    prior = load_pose_prior()
    for size in (0.1, 0.5, 2.0):
        pose = size * torch.randn(3, 23, 3, generator=rng)
        torch.testing.assert_close(prior.merged().energies(pose), prior.energies(pose), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_landmarks_are_symmetric(body, layout):
    table = landmark_table(layout)
    zero = torch.zeros(1, 3)
    rest = Pose(torch.eye(3).expand(1, 24, 3, 3), zero, torch.zeros(10), torch.tensor(1.0))
    points = PointModel(body, torch.zeros(1, dtype=torch.int64), table)(rest).landmarks[0]
    order = mirrored_order(table)
    # The stand-in itself is symmetric within two millimetres.
    torch.testing.assert_close(points[order] * torch.tensor([-1.0, 1, 1]), points, atol=4e-3, rtol=0)
    for i, name in enumerate(table.names):
        if name.startswith("left"):
            assert points[i, 0] > 0, name
    assert points[table.index("nose")[0], 1] > points[table.index("left_hip")[0], 1]
    with pytest.raises(ValueError, match="layout must be one of"):
        landmark_table("smpl")


def test_limbs_follow_their_bones_and_bend_forwards(body, rng):
    rest = PointModel(body, torch.zeros(1, dtype=torch.int64)).rest_joints(torch.zeros(10))
    for limb in LIMBS:
        parent = axis_angle_to_matrix(torch.randn(64, 3, generator=rng))
        upper, lower = torch.randn(2, 64, 3, generator=rng)
        upper = torch.nn.functional.normalize(upper, dim=-1)
        lower = torch.nn.functional.normalize(lower, dim=-1)
        first, second = two_bone_rotations(limb, rest, parent, upper, lower)
        bones = [rest[b] - rest[a] for a, b in ((limb.first, limb.middle), (limb.middle, limb.last))]
        bones = [bone / bone.norm() for bone in bones]
        at_first = parent @ first
        torch.testing.assert_close((at_first @ bones[0][:, None])[..., 0], upper, atol=1e-5, rtol=0)
        angles = matrix_to_axis_angle(second)
        hinge = torch.tensor(limb.hinge)
        assert (angles @ hinge > 0).all(), limb.name  # forwards
        # The lower bone comes close: the twist of the upper one is a compromise between the bend and no twist.
        pointed = (at_first @ second @ bones[1][:, None])[..., 0]
        assert (pointed * lower).sum(-1).median() > 0.95


def test_shortest_rotation(rng):
    start, end = torch.nn.functional.normalize(torch.randn(2, 20, 3, generator=rng), dim=-1)
    end[0], end[1] = start[0], -start[1]
    R = shortest_rotation(start, end)
    torch.testing.assert_close((R @ start[..., None])[..., 0], end, atol=1e-5, rtol=0)
    angle = matrix_to_axis_angle(R).norm(dim=-1)
    torch.testing.assert_close(angle, (start * end).sum(-1).clamp(-1, 1).arccos(), atol=2e-3, rtol=0)


def test_joint_limits_mirror_and_penalise_violations_only():
    ranges = joint_ranges()
    left, right = (JOINT_NAMES.index(f"{side}_elbow") - 1 for side in ("left", "right"))
    pose = torch.zeros(1, 23, 3)
    assert float(limit_penalty(pose, ranges)) == 0
    pose[0, left, 1], pose[0, right, 1] = -2.0, 2.0  # bent
    assert float(limit_penalty(pose, ranges)) == 0
    pose[0, left, 1] = math.radians(5) + MARGIN  # overstretched by one margin
    assert float(limit_penalty(pose, ranges)) == pytest.approx(0.5, rel=1e-4)
    pose[0, left, 1], pose[0, right, 1] = 0.0, -math.radians(5) - 2 * MARGIN
    assert float(limit_penalty(pose, ranges)) == pytest.approx(2.0, rel=1e-4)
    assert (ranges[0] < ranges[1]).all()


def test_the_pose_prior_treats_both_sides_alike_and_prefers_relaxed_poses(body, rng):
    prior = load_pose_prior()
    pose = 0.3 * torch.randn(4, 23, 3, generator=rng)
    order = []
    for name in JOINT_NAMES[1:]:
        other = name.replace("left", "*").replace("right", "left").replace("*", "right")
        order.append(JOINT_NAMES.index(other) - 1)
    mirrored = pose[:, order] * torch.tensor([1.0, -1.0, -1.0])
    energies, other = prior.energies(pose), prior.energies(mirrored)
    torch.testing.assert_close(other[:, [1, 0, 3, 2]], energies[:, :4])
    relaxed = matrix_to_axis_angle(relaxed_rotations(body, 1)[:, 1:])
    assert (prior.energies(relaxed) < prior.energies(relaxed + 1.0)).all()


def test_projection_by_hand():
    K = torch.tensor([[[100.0, 0, 32], [0, 120, 24], [0, 0, 1]]])
    T = torch.eye(4)[None].clone()
    T[0, :3, 3] = torch.tensor([0.0, 0.0, 2.0])
    pixels, depths = project(torch.tensor([[[0.5, -0.25, 0.0], [0.0, 0.0, -5.0]]]), K, T)
    torch.testing.assert_close(pixels[0, 0, 0], torch.tensor([57.0, 9.0]))
    assert depths[0, 0, 0] == 2 and pixels.isfinite().all()  # also behind the camera
    sizes = pixel_sizes(torch.zeros(1, 3), K, T)
    assert float(sizes) == pytest.approx(2 / math.sqrt(100 * 120))


def test_masks_keep_their_place_in_windows():
    mask = torch.zeros(60, 80)
    mask[20:40, 30:70] = 1
    cut = torch.zeros(60, 80)
    cut[40:, 10:30] = 1  # reaches the lower edge
    masks = Silhouettes.from_masks(
        [[mask.numpy().astype(bool), (cut * 255).to(torch.uint8)], [None, torch.zeros(60, 80)]]
    )
    assert masks.present.tolist() == [[True, True], [False, False]]
    left, top, side = masks.windows[0, 0].tolist()
    cells = torch.nonzero(masks.alphas[0, 0] > 0.5).float() + 0.5
    pixels = cells.flip(-1) * side / 256 + torch.tensor([left, top])
    torch.testing.assert_close(pixels.min(0).values, torch.tensor([30.0, 20.0]), atol=0.4, rtol=0)
    torch.testing.assert_close(pixels.max(0).values, torch.tensor([70.0, 40.0]), atol=0.4, rtol=0)
    targets = silhouette_targets(masks)
    at = torch.tensor([[50.0, 30.0], [50.0, 45.0], [25.0, 30.0]])
    distances = targets.distances(at.expand(2, 2, 3, 2))[0, 0]
    torch.testing.assert_close(distances, torch.tensor([0.0, 5.0, 5.0]), atol=0.3, rtol=0)
    used = targets.weights[0, 0] > 0
    outline, normals = targets.outline[0, 0][used], targets.normals[0, 0][used]
    edge = torch.stack([outline[:, 0] - 30, 70 - outline[:, 0], outline[:, 1] - 20, 40 - outline[:, 1]]).abs()
    assert edge.min(0).values.max() < 0.3
    center = torch.tensor([50.0, 30.0])
    assert ((outline - center) * normals).sum(-1).min() > 0
    below = targets.outline[0, 1][targets.weights[0, 1] > 0][:, 1]
    assert below.max() < 60 - 0.3  # the image's edge is no outline
    assert (targets.weights[1] == 0).all()


def test_triangulated_landmarks(body, rng):
    params = standing_bodies([0.0, 1.0])
    seen = observe_bodies(params, body, ring_cameras(5), masks=False)
    true = PointModel(body, torch.zeros(1, dtype=torch.int64), landmark_table("mediapipe"))(Pose.from_params(params))
    weights = seen.visibility.clone()
    weights[0, 1:, 4] = 0
    pixels = seen.landmarks.clone()
    pixels[1, 2, 7] += 60  # an outlier of a fifth camera
    points, valid = triangulate(pixels, weights, seen.Ks, seen.viewmats)
    assert valid.sum() == valid.numel() - 1 and not valid[0, 4]
    errors = (points - true.landmarks).norm(dim=-1)
    assert errors[valid].median() < 1e-4 and errors[1, 7] < 0.04


def test_bodies_start_at_their_landmarks(body):
    params = standing_bodies([0.5, 2.5])
    seen = observe_bodies(params, body, masks=False)
    table = landmark_table("mediapipe")
    rotations = initial_rotations(body, table, seen.world_landmarks[:, 0])
    true = Pose.from_params(params).rotations
    angle = matrix_to_axis_angle(rotations[:, 0].mT @ true[:, 0]).norm(dim=-1)
    assert angle.max() < 0.05
    model = PointModel(body, torch.zeros(1, dtype=torch.int64), table)
    zero = torch.zeros(2, 3)
    marks = model(Pose(true, zero, torch.zeros(10), torch.tensor(1.0))).landmarks
    transl = place_by_landmarks(marks, seen.landmarks, seen.visibility, seen.Ks, seen.viewmats)
    torch.testing.assert_close(transl, params.transl, atol=1e-3, rtol=0)


def test_mirrored_limbs_look_alike_in_the_camera(body):
    params = standing_bodies([0.2, 0.9])
    x = Variables.start(Pose.from_params(params), torch.tensor([[0.0, -1.0, 0.0]]), torch.zeros(1))
    limb = next(limb for limb in LIMBS if limb.name == "left leg")
    mirrored = mirror_limb(x, body, limb, (True, False), torch.eye(4))
    model = PointModel(body, torch.zeros(1, dtype=torch.int64))
    before, after = model(x.bodies()).joints, model(mirrored.bodies()).joints
    K = torch.tensor([[[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]])
    knee = [project(j[:, [limb.middle]], K, torch.eye(4)[None])[0] for j in (before, after)]
    torch.testing.assert_close(*knee, atol=12.0, rtol=0)  # perspective: depth differs by up to a fifth of a metre
    ray = torch.nn.functional.normalize(before[:, limb.first], dim=-1)
    lean = [((j[:, limb.middle] - j[:, limb.first]) * ray).sum(-1) for j in (before, after)]
    torch.testing.assert_close(lean[0], -lean[1], atol=1e-4, rtol=0)
    others = [j for j in range(24) if j not in (limb.middle, limb.last, limb.last + 3)]
    torch.testing.assert_close(before[:, others], after[:, others], atol=1e-5, rtol=0)


def test_exchanged_sides_are_exchanged_back(body):
    seen = observe_bodies(standing_bodies([0.2, 0.9]), body, masks=False)
    where = torch.tensor([[True], [False]])
    once = swap_sides(seen, where, landmark_table("mediapipe"))
    assert not torch.equal(once.landmarks[0], seen.landmarks[0])
    torch.testing.assert_close(once.world_landmarks[1], seen.world_landmarks[1])
    torch.testing.assert_close(once.world_landmarks[0, 0, 11, 2], -seen.world_landmarks[0, 0, 12, 2])
    twice = swap_sides(once, where, landmark_table("mediapipe"))
    torch.testing.assert_close(twice.landmarks, seen.landmarks)
    torch.testing.assert_close(twice.world_landmarks, seen.world_landmarks)


def test_the_likely_facing_has_few_turns():
    up = torch.tensor([[0.0, 1.0, 0.0]]).expand(5, 3)
    forward = torch.tensor([[0.0, 0.0, 1.0]]).expand(5, 3)
    both = torch.stack([forward, -forward])
    energies = torch.zeros(2, 5)
    energies[0, [0, 1, 3, 4]], energies[1, 2] = -5.0, -1.0  # frame 2 slightly prefers the back
    assert not likely_facing(energies, both, up).any()
    energies[1, 2] = -50.0
    assert likely_facing(energies, both, up).tolist() == [False, False, True, False, False]


def test_bone_targets_weigh_missing_landmarks_zero(body):
    seen = observe_bodies(standing_bodies([0.2]), body, masks=False)
    visibility = seen.visibility.clone()
    table = landmark_table("mediapipe")
    visibility[..., table.index("left_wrist")] = 0
    bones = bone_targets(table.names, seen.world_landmarks, visibility)
    of_wrist = (bones.starts == table.index("left_wrist")[0]) | (bones.ends == table.index("left_wrist")[0])
    assert of_wrist.any() and (bones.weights[0, 0, of_wrist] == 0).all() and (bones.weights[0, 0, ~of_wrist] == 1).all()
    torch.testing.assert_close(bones.directions.norm(dim=-1), torch.ones_like(bones.weights))
    assert bones.whitening.isfinite().all()


def test_landmarks_of_a_part_of_the_person_are_not_trusted(body):
    seen = observe_bodies(standing_bodies([0.2]), body)
    center = seen.landmarks.mean(2, keepdim=True)
    small = replace(seen, landmarks=center + 0.3 * (seen.landmarks - center))
    assert (prepare_targets(seen).landmark_weights > 0).any()
    assert (prepare_targets(small).landmark_weights == 0).all() and prepare_targets(small).seen.all()


def test_bones_cost_least_where_exact_and_hands_are_those_of_the_wrists(body):
    params = standing_bodies([0.0, 1.0])
    bodies = Pose.from_params(params)
    energy = Energy(prepare_targets(observe_bodies(params, body)), body, spread_vertices(body, 100), Weights(), bodies)

    def terms(name: str, angle: float) -> tuple[float, float]:
        """Terms of bones and hands after a turn of one joint."""
        x = Variables.start(bodies, torch.tensor([[0.0, -1.0, 0.0]]), torch.zeros(1))
        x.pose[:, JOINT_NAMES.index(name) - 1, 2] += angle
        with torch.no_grad():
            out = energy(x)
        return float(out["bones"].sum()), float(out["hands"].sum())

    (bones, hands), (bent_bones, bent_hands), (_, turned_hands) = (
        terms(*turn) for turn in (("left_elbow", 0.0), ("left_elbow", 0.5), ("left_wrist", 0.5))
    )
    assert bones < 0.5 * bent_bones
    assert bent_hands == pytest.approx(hands) and turned_hands > hands + 1


def test_a_skirt_is_not_trusted_and_the_trunk_above_it_is(body):
    """Masks that are 10 cm wider from the waist to the knees, around the true body."""
    params = standing_bodies([0.0, 1.0])
    seen = observe_bodies(params, body)
    worn = with_skirts(seen, params, body)
    vertices = spread_vertices(body, 600)
    parts = cloth_parts(body)
    part = {name: int(parts[body.lbs_weights[:, JOINT_NAMES.index(name)].argmax()]) for name in JOINT_NAMES}
    for observed, loose in ((seen, ()), (worn, ("pelvis", "left_hip"))):
        bodies = Pose.from_params(params)
        energy = Energy(prepare_targets(observed), body, vertices, Weights(), bodies)
        energy.update_trust(Variables.start(bodies, torch.tensor([[0.0, -1.0, 0.0]]), torch.zeros(1)))
        for name in ("pelvis", "left_hip", "spine3", "head", "left_ankle"):
            assert (energy.trust[part[name]] < 0.3) == (name in loose), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landmarks": torch.zeros(1, 1, 17, 2)}, "landmarks must be"),
        ({"visibility": torch.ones(1, 1, 3)}, "visibility must be"),
        ({"world_landmarks": torch.zeros(1, 2, 33, 3)}, "world_landmarks must be"),
        ({"visibility": torch.zeros(1, 1, 33)}, "no frame has a landmark or a mask"),
    ],
)
def test_observations_of_wrong_shape_are_refused(body, change, message):
    seen = observe_bodies(standing_bodies([0.2]), body, masks=False)
    with pytest.raises(ValueError, match=message):
        prepare_targets(replace(seen, **change))


def test_surface_vertices(body):
    ids = spread_vertices(body, 200)
    assert len(set(ids.tolist())) == 200
    distances = torch.cdist(body.v_template, body.v_template[ids]).min(1).values
    assert distances.max() < 0.12  # every vertex is near a chosen one
    soles = body.v_template[sole_vertices(body)]
    assert (soles[:, 1] < body.v_template[:, 1].min() + 0.03).all() and soles[:, 0].min() < 0 < soles[:, 0].max()
    constant, slopes = height_rows(body)
    betas = torch.zeros(10)
    betas[0] = 2.0
    shaped = body.v_template + body.shapedirs[..., :10] @ betas
    height = shaped[:, 1].max() - shaped[:, 1].min()
    assert float(constant + slopes[:10] @ betas) == pytest.approx(float(height), abs=2e-3)
