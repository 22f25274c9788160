"""Terms of the fitting energy: values by hand, laws, and gradients against finite differences."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from smpl_renderer.fitting import terms
from smpl_renderer.fitting.robust import geman_mcclure, huber
from smpl_renderer.rotations import axis_angle_to_matrix

F, C, L = 3, 2, 5


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def randn(*shape, rng):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def rand(*shape, rng):
    return torch.rand(*shape, generator=rng, dtype=torch.float64)


def gradcheck(function, *inputs):
    """Analytic against numerical gradients, to first order; the defaults of torch's tolerances are for float64."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(function, leaves)


def test_robust_losses_by_hand():
    squared = torch.tensor([0.0, 1.0, 9.0, 1e9], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.5 / (1 + 1 / 9), 9 / 4, 4.5], dtype=torch.float64)
    torch.testing.assert_close(geman_mcclure(squared, 3.0), expected)
    residual = torch.tensor([0.0, -2.0, 3.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(huber(residual, 3.0), torch.tensor([0.0, 2.0, 4.5, 10.5], dtype=torch.float64))


def test_landmark_term(rng):
    targets, weights = 100 * randn(F, C, L, 2, rng=rng), rand(F, C, L, rng=rng)
    sizes, sigmas = 0.01 * rand(F, C, rng=rng), 0.02 * torch.ones(L, dtype=torch.float64)

    def term(pixels):
        return terms.landmark_term(pixels, targets, weights, sizes, sigmas, 4.0)

    assert term(targets).abs().max() == 0
    # One landmark of one camera off by 3 pixels of 5 mm: 15 mm are 0.75 standard deviations.
    moved, one = targets.clone(), torch.zeros_like(weights)
    moved[1, 0, 2, 1] += 3
    one[1, 0, 2] = 1
    value = terms.landmark_term(moved, targets, one, torch.full((F, C), 0.005).double(), sigmas, 4.0)
    expected = 0.5 * 0.75**2 / (1 + 0.75**2 / 16)
    torch.testing.assert_close(value, torch.tensor([0.0, expected, 0.0], dtype=torch.float64))
    gradcheck(term, targets + randn(F, C, L, 2, rng=rng))


def test_landmarks_of_weight_zero_do_not_count(rng):
    targets, pixels = randn(F, C, L, 2, rng=rng), randn(F, C, L, 2, rng=rng)
    weights = torch.zeros(F, C, L, dtype=torch.float64)
    value = terms.landmark_term(pixels, targets, weights, weights[..., 0], torch.ones(L).double(), 4.0)
    assert value.shape == (F,) and (value == 0).all()


def test_bone_term_ignores_lengths_and_weighs_depth_less(rng):
    bones = randn(F, C, L, 3, rng=rng)
    whitening = torch.eye(3, dtype=torch.float64).expand(F, C, L, 3, 3)
    weights = torch.ones(F, C, L, dtype=torch.float64)
    lengths = 0.1 + rand(F, C, L, 1, rng=rng)
    assert terms.bone_term(bones, bones * lengths, whitening, weights, 3.0).max() < 1e-20
    other = randn(F, C, L, 3, rng=rng)
    near = terms.bone_term(bones, other, 0.1 * whitening, weights, 1e6)
    far = terms.bone_term(bones, other, 0.2 * whitening, weights, 1e6)
    torch.testing.assert_close(far, 4 * near)
    gradcheck(lambda x: terms.bone_term(x, other, whitening, weights, 3.0), bones)


def test_outside_term_is_a_mean_over_points_and_a_sum_over_cameras(rng):
    distances, sizes = 4 * rand(F, C, 7, rng=rng), 0.01 * (1 + rand(F, C, rng=rng))
    twice = terms.outside_term(distances.repeat(1, 1, 2), sizes, 0.02, 3.0)
    torch.testing.assert_close(twice, terms.outside_term(distances, sizes, 0.02, 3.0))
    cameras = terms.outside_term(distances.repeat(1, 2, 1), sizes.repeat(1, 2), 0.02, 3.0)
    torch.testing.assert_close(cameras, 2 * twice)
    assert (terms.outside_term(0 * distances, sizes, 0.02, 3.0) == 0).all()
    assert (terms.outside_term(distances, 0 * sizes, 0.02, 3.0) == 0).all()  # no mask
    gradcheck(lambda x: terms.outside_term(x, sizes, 0.02, 3.0), distances)


def circle(count, radius):
    angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    directions = torch.stack([angles.cos(), angles.sin()], -1)
    return radius * directions, directions


def test_outline_points_are_matched_by_place_and_normal():
    outline, normals = circle(12, 50.0)
    # The body: the same circle a little smaller, in another order, and points inside of it that face the camera.
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    rim, rim_normals = circle(12, 45.0)
    pixels = torch.cat([rim[order], 0.9 * outline])
    point_normals = torch.cat([rim_normals[order], torch.zeros(12, 2).double()])
    matches = terms.match_outline(
        *(outline[None, None], normals[None, None], pixels[None, None], point_normals[None, None]),
        *(torch.full((1, 1), 0.005).double(), 0.08),
    )[0, 0]
    torch.testing.assert_close(order[matches], torch.arange(12))


def test_outline_term_is_least_at_the_expected_clearance():
    outline, normals = circle(40, 50.0)
    weights, sizes = torch.ones(1, 1, 40).double(), torch.full((1, 1), 0.005).double()
    clearance = torch.full((1, 1, 40), 0.01).double()

    def term(radius):
        body = circle(40, radius)[0]
        args = (outline[None, None], normals[None, None], body[None, None], weights, sizes, 0.02, 3.0, clearance)
        return float(terms.outline_term(*args))

    assert term(48.0) < 1e-15  # two pixels of 5 mm
    assert term(47.0) == pytest.approx(term(49.0)) and 0 < term(47.0) < term(45.0)
    # 5 mm are a quarter of a standard deviation.
    assert term(47.0) == pytest.approx(0.5 * 0.25**2 / (1 + 0.25**2 / 9))


def test_outline_term_lets_the_body_slide(rng):
    outline, normals = (x[None, None] for x in circle(8, 50.0))
    along = torch.stack([-normals[..., 1], normals[..., 0]], -1)
    weights, sizes = torch.ones(1, 1, 8).double(), torch.full((1, 1), 0.005).double()
    clearance = torch.zeros(1, 1, 8).double()

    def term(body):
        return terms.outline_term(outline, normals, body, weights, sizes, 0.02, 1e6, clearance)

    torch.testing.assert_close(term(outline + 3 * along), 0.1 * term(outline + 3 * normals))
    weights[..., 4:] = 0
    far = outline.clone()
    far[..., 4:, :] += 1000
    assert (term(far) == 0).all()  # padding
    gradcheck(term, outline + randn(1, 1, 8, 2, rng=rng))


def test_ground_term_is_least_for_soles_on_the_ground(rng):
    on = torch.zeros(1, 6, dtype=torch.float64)
    values = [float(terms.ground_term(on + height, 0.02)) for height in (-0.05, -0.02, 0.0, 0.02, 0.05)]
    assert min(values) == values[2] == 0 and values[0] > values[4]
    assert values[0] > values[1] > values[2] < values[3] < values[4]
    one_foot = on.clone()
    one_foot[:, 3:] = 0.3  # a raised foot costs no more than a bounded amount
    assert float(terms.ground_term(one_foot, 0.02)) < 0.3
    gradcheck(lambda x: terms.ground_term(x, 0.02), 0.03 * randn(F, 6, rng=rng))


def test_balance_term_is_horizontal_and_turns_with_the_world(rng):
    vertices, soles = randn(F, 9, 3, rng=rng), randn(F, 4, 3, rng=rng)
    heights, up = 0.05 * rand(F, 4, rng=rng), normalize(randn(F, 3, rng=rng), dim=-1)

    def term(vertices, soles, up):
        return terms.balance_term(vertices, soles, heights, up, 0.06, 0.08)

    value = term(vertices, soles, up)
    torch.testing.assert_close(term(vertices + 3 * up[:, None], soles, up), value)
    Q = torch.linalg.qr(randn(3, 3, rng=rng)).Q
    torch.testing.assert_close(term(vertices @ Q.T, soles @ Q.T, up @ Q.T), value)
    centred = vertices - vertices.mean(1, keepdim=True) + soles[:, :1]
    assert (terms.balance_term(centred, soles[:, :1], heights[:, :1], up, 0.06, 0.08) == 0).all()
    gradcheck(lambda v, s: term(v, s, up), 0.1 * vertices, 0.1 * soles)


def test_feet_stand_still_unless_both_move_in_frames_close_in_time():
    times = torch.tensor([0.0, 0.1, 0.2, 5.0])
    ankles = torch.zeros(4, 2, 3)
    ankles[1:, 0, 0] = torch.tensor([0.5, 1.0, 9.0])  # one foot moves at 5 m/s
    assert (terms.still_feet(ankles, times, 0.3) == 1).all()
    ankles[:, 1] = ankles[:, 0]
    still = terms.still_feet(ankles, times, 0.3)
    assert (still[:3] < 1e-6).all() and still[3] == 1  # the last frame is long after the others
    assert (terms.still_feet(ankles, None, 0.3) == 1).all()
    slow = terms.still_feet(0.06 * ankles, times, 0.3)  # 0.3 m/s
    assert slow[1] == pytest.approx(math.exp(-1), abs=1e-5)


def test_upright_term_grows_with_the_angle(rng):
    up = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    values = []
    for angle in (0.0, 0.1, 0.3, 1.0):
        trunk = torch.tensor([[math.sin(angle), math.cos(angle), 0.0]], dtype=torch.float64)
        values.append(float(terms.upright_term(2.5 * trunk, up, 0.2)))
    assert values[0] == 0 and values == sorted(values)
    squared = 2 * (1 - math.cos(0.1)) / 0.04
    assert values[1] == pytest.approx(0.5 * squared / (1 + squared / 4))
    gradcheck(lambda x: terms.upright_term(x, up, 0.2), randn(1, 3, rng=rng))


def test_pose_term_is_about_the_squared_angle(rng):
    def about_z(angle):
        c, s = math.cos(angle), math.sin(angle)
        return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)

    common = torch.eye(3, dtype=torch.float64)[None]
    value = terms.pose_term(about_z(0.05)[None, None], common, 0.15, 1e6)
    assert float(value) == pytest.approx(0.5 * (0.05 / 0.15) ** 2, rel=1e-3)
    assert (terms.pose_term(common[None], common, 0.15, 2.0) == 0).all()
    gradcheck(lambda R: terms.pose_term(R, common, 0.15, 2.0), randn(F, 1, 3, 3, rng=rng))


def test_smooth_term_is_zero_for_constant_speed(rng):
    times = torch.tensor([0.0, 0.1, 0.25, 0.3], dtype=torch.float64)
    start, speed = randn(1, 6, 3, rng=rng), randn(1, 6, 3, rng=rng)
    steady = start + speed * times[:, None, None]
    assert terms.smooth_term(steady, times, 4.0, 0.25).max() < 1e-20
    # Fallen bodies: an acceleration of 9.81 m/s^2 in each inner frame.
    fallen = steady + 0.5 * 9.81 * (times**2)[:, None, None] * torch.tensor([0.0, 0.0, 1.0]).double()
    squared = (9.81 / 4.0) ** 2
    value = terms.smooth_term(fallen, times, 4.0, 0.25)
    torch.testing.assert_close(value[1:3], torch.full((2,), 0.5 * squared / (1 + squared / 9)).double())
    assert value[0] == value[3] == 0
    apart = terms.smooth_term(fallen, 10 * times, 4.0, 0.25)
    assert (apart == 0).all() and (terms.smooth_term(fallen[:2], times[:2], 4.0, 0.25) == 0).all()
    gradcheck(lambda x: terms.smooth_term(x, times, 4.0, 0.25), 0.1 * randn(4, 2, 3, rng=rng))


def test_gravity_follows_the_cameras_that_are_not_rolled():
    """One of three level cameras is rolled by half a radian: the minimum stays near what the other two agree on."""
    angles = torch.linspace(-0.6, 0.6, 241)
    up = torch.stack([angles.sin(), -angles.cos(), 0 * angles], -1)

    def rolled(angle: float) -> torch.Tensor:
        return axis_angle_to_matrix(torch.tensor([0.0, 0.0, angle]))

    cameras = torch.stack([rolled(0.5), rolled(0.01), rolled(-0.01)])
    assert angles[terms.roll_term(up, cameras, 0.05).argmin()].abs() < 0.03
    single = angles[terms.roll_term(up, cameras[:1], 0.05).argmin()]
    assert single.abs() > 0.45
