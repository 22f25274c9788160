"""Feedback: rendering errors of an avatar, and its correction."""

import copy
from dataclasses import replace

import pytest
import torch

from core.avatar.avatar import TENSOR_FIELDS, Avatar
from core.avatar.rendering import render_avatar
from core.model.feedback import CHANGED_FIELDS, GEOMETRY_CHANNELS, Feedback, change_geometry, rendering_errors
from core.model.surface import surface_axes
from core.types.frames import Frames
from smpl_renderer.rotations import quat_to_matrix

CONTEXT = 6
NORMAL_POSITION, OPACITY, SCALES = slice(2, 3), slice(3, 4), slice(4, 7)  # channels of `change_geometry`


@pytest.fixture(scope="module")
def painted(body, plain) -> Avatar:
    """The body with red and blue bands of 20 cm."""
    bands = torch.sin(body.v_template[:, 1] * 2 * torch.pi / 0.4) > 0
    return replace(plain, colors=torch.stack([bands, torch.zeros_like(bands), ~bands], -1).float()[None])


@pytest.fixture(scope="module")
def posed(body, rendered_frames):
    return body.pose(rendered_frames.body)


@pytest.fixture(scope="module")
def axes(body, painted):
    return surface_axes(body)[0][painted.vertex_ids]


@pytest.fixture(scope="module")
def grey(painted) -> Avatar:
    return replace(painted, colors=torch.full_like(painted.colors, 0.5))


@pytest.fixture
def feedback() -> Feedback:
    torch.manual_seed(0)
    return Feedback(CONTEXT, rounds=3)


@pytest.fixture(scope="module")
def context(body):
    return torch.randn(1, body.num_vertices, CONTEXT, generator=torch.Generator().manual_seed(0))


def mean_squared_error(avatar: Avatar, body, frames: Frames) -> torch.Tensor:
    with torch.no_grad():
        return (render_avatar(avatar, body, frames.body, frames.cameras).colors - frames.images).square().mean()


def test_zeros_do_not_change_the_geometry(painted, axes):
    same = change_geometry(painted, axes, torch.zeros(*painted.opacities.shape, GEOMETRY_CHANNELS))
    for name in ("offsets", "scales", "quats", "colors"):
        torch.testing.assert_close(getattr(same, name), getattr(painted, name), rtol=0, atol=1e-6)
    torch.testing.assert_close(same.opacities, painted.opacities, rtol=0, atol=1e-3)


def test_positions_move_along_the_surfaces_axes(painted, axes):
    changes = torch.zeros(*painted.opacities.shape, GEOMETRY_CHANNELS)
    changes[..., 2] = 1.0
    moved = change_geometry(painted, axes, changes).offsets - painted.offsets
    normals = axes[..., 2]
    torch.testing.assert_close(moved, (moved * normals).sum(-1, keepdim=True) * normals, rtol=0, atol=1e-6)
    assert ((moved * normals).sum(-1) - 0.01).abs().max() < 5e-4  # tanh shortens it


def test_rotations_are_about_the_gaussians_own_axes(painted, axes):
    changes = torch.zeros(*painted.opacities.shape, GEOMETRY_CHANNELS)
    changes[..., 9] = 0.4
    before, after = (quat_to_matrix(a.quats) for a in (painted, change_geometry(painted, axes, changes)))
    rotation = before.transpose(-1, -2) @ after
    angle = torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0])
    torch.testing.assert_close(angle, torch.full_like(angle, 0.1), rtol=0, atol=1e-3)
    torch.testing.assert_close(rotation[..., 2, 2], torch.ones_like(angle), rtol=0, atol=1e-5)


def test_a_correct_avatar_has_no_errors(painted, axes, rendered_frames, posed):
    errors = rendering_errors(painted, axes, rendered_frames, posed)
    assert errors.residuals.abs().max() < 1e-3  # opacities keep 1e-3 from 0 and 1
    assert errors.descent.abs().max() < 1e-3
    assert (errors.pixels > 0.5).float().mean() > 0.5


def test_residuals_are_the_differences_of_the_colours(painted, grey, axes, rendered_frames, posed):
    errors = rendering_errors(grey, axes, rendered_frames, posed)
    seen = errors.pixels > 0.5
    assert seen.float().mean() > 0.3
    missing = (painted.colors - grey.colors)[seen]
    assert (errors.residuals[seen] - missing).abs().mean() < 0.35 * missing.abs().mean()  # pixels show neighbours, too


def test_pixels_of_all_gaussians_sum_to_the_covered_pixels(painted, axes, rendered_frames, posed, body):
    with torch.no_grad():
        alphas = render_avatar(painted, body, rendered_frames.body, rendered_frames.cameras).alphas
    total = rendering_errors(painted, axes, rendered_frames, posed).pixels.sum()
    torch.testing.assert_close(total, alphas.sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("spoil", "channels", "sign"),
    [
        (lambda a, n: replace(a, offsets=a.offsets + 0.03 * n), NORMAL_POSITION, -1),
        (lambda a, n: replace(a, scales=2.0 * a.scales), SCALES, -1),
        (lambda a, n: replace(a, scales=0.5 * a.scales, opacities=0.8 * a.opacities), SCALES, 1),
        (lambda a, n: replace(a, opacities=0.3 * a.opacities), OPACITY, 1),
    ],
    ids=["too far out", "too large", "too small", "too thin"],
)
def test_descent_points_towards_the_correct_avatar(painted, axes, rendered_frames, posed, spoil, channels, sign):
    errors = rendering_errors(spoil(painted, axes[..., 2]), axes, rendered_frames, posed)
    assert sign * errors.descent[..., channels].mean() > 0


def test_errors_do_not_depend_on_the_number_of_equal_images(grey, axes, rendered_frames, posed):
    twice = Frames(*(torch.cat([x, x], 1) for x in (rendered_frames.images, rendered_frames.alphas)), None, None)
    twice = replace(twice, cameras=rendered_frames.cameras[:, [0, 1, 0, 1]], body=rendered_frames.body[:, [0, 1, 0, 1]])
    once, again = (
        rendering_errors(grey, axes, rendered_frames, posed),
        rendering_errors(grey, axes, twice, posed[:, [0, 1, 0, 1]]),
    )
    torch.testing.assert_close(again.residuals, once.residuals, rtol=0, atol=1e-4)
    torch.testing.assert_close(again.pixels, 2 * once.pixels, rtol=1e-4, atol=1e-4)


def test_a_view_with_an_empty_mask_is_ignored(grey, axes, rendered_frames, posed):
    images, alphas = rendered_frames.images.clone(), rendered_frames.alphas.clone()
    images[:, :, 3], alphas[:, :, 3] = 1, 0  # on white
    blind = replace(rendered_frames, images=images, alphas=alphas)
    without, with_it = (
        rendering_errors(grey, axes, x, posed) for x in (rendered_frames.select_views([0, 1, 2]), blind)
    )
    for name in ("residuals", "pixels", "descent"):
        torch.testing.assert_close(getattr(with_it, name), getattr(without, name), rtol=1e-4, atol=1e-5)


def test_untrained_feedback_corrects_visible_colours(body, feedback, grey, rendered_frames, posed, context):
    with torch.no_grad():
        avatar = feedback(grey, context, surface_axes(body)[0], rendered_frames, posed)
    assert mean_squared_error(avatar, body, rendered_frames) < 0.4 * mean_squared_error(grey, body, rendered_frames)


@pytest.mark.slow
def test_trained_feedback_corrects_scales(body, painted, rendered_frames, posed, context):
    """After a few optimizer steps, feedback shrinks Gaussians that are too large, also as seen from a held-out view."""
    torch.manual_seed(0)
    feedback = Feedback(CONTEXT, rounds=2)
    fat = replace(painted, scales=2.0 * painted.scales)
    seen, held_out = rendered_frames.select_views([0, 1, 2]), rendered_frames.select_views([3])
    before = feedback(fat, context, surface_axes(body)[0], seen, posed).detach()
    optimizer = torch.optim.Adam(feedback.parameters(), lr=1e-2)
    for _ in range(8):
        avatar = feedback(fat, context, surface_axes(body)[0], seen, posed)
        loss = (render_avatar(avatar, body, seen.body, seen.cameras).colors - seen.images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = feedback(fat, context, surface_axes(body)[0], seen, posed).detach()
    assert mean_squared_error(after, body, held_out) < 0.7 * mean_squared_error(before, body, held_out)
    assert after.scales.mean() < 0.9 * before.scales.mean()


def test_transparent_gaussians_stay_transparent(body, feedback, grey, rendered_frames, posed, context):
    gone = replace(grey, opacities=grey.opacities * (torch.arange(grey.count) % 2))
    avatar = feedback(gone, context, surface_axes(body)[0], rendered_frames, posed)
    assert torch.equal(avatar.opacities > 0, gone.opacities > 0)
    assert all(x.isfinite().all() for x in (avatar.colors, avatar.scales, avatar.offsets, avatar.quats))


def test_subjects_do_not_influence_each_other(body, feedback, grey, rendered_frames, posed, context):
    images = torch.cat([rendered_frames.images, 1 - rendered_frames.images])
    pair = Frames.stack([rendered_frames[0], rendered_frames[0]])
    pair = Frames(images, pair.alphas, pair.cameras, pair.body)
    avatars = grey.map(lambda x: x.expand(2, *x.shape[1:]))
    with torch.no_grad():
        both = feedback(avatars, context.expand(2, -1, -1), surface_axes(body)[0], pair, body.pose(pair.body))
        alone = feedback(grey, context, surface_axes(body)[0], rendered_frames, posed)
    torch.testing.assert_close(both.colors[:1], alone.colors, rtol=0, atol=1e-4)
    assert (both.colors[1] - both.colors[0]).abs().mean() > 0.1


def test_rounds_use_different_frames(body, make_frames, grey, context, monkeypatch):
    frames = make_frames(frames=6, views=4, size=32)
    posed = body.pose(frames.body)
    used = []

    def record(avatar, axes, inputs, posed, backend):
        used.append(inputs.images)
        return rendering_errors(avatar, axes, inputs, posed, backend)

    monkeypatch.setattr("core.model.feedback.rendering_errors", record)
    with torch.no_grad():
        Feedback(CONTEXT, rounds=2)(grey, context, surface_axes(body)[0], frames, posed)
        Feedback(CONTEXT, rounds=1)(grey, context, surface_axes(body)[0], frames.select_views([0, 1]), posed)
    assert torch.equal(used[0], frames.images[:, ::2]) and torch.equal(used[1], frames.images[:, 1::2])
    assert torch.equal(used[2], frames.images[:, :, :2])  # two views of all frames are within the limit


def test_feedback_runs_in_inference_mode(body, feedback, grey, rendered_frames, context):
    with torch.no_grad():
        expected = feedback(grey, context, surface_axes(body)[0], rendered_frames, body.pose(rendered_frames.body))
    with torch.inference_mode():
        inputs = rendered_frames.map(lambda x: x * 1)
        avatar = feedback(grey, context, surface_axes(body)[0], inputs, body.pose(inputs.body))
    torch.testing.assert_close(avatar.colors, expected.colors, rtol=0, atol=1e-5)


class Capture:
    """Stands for `CudaGraphCache`: keeps the function and the tensors of each call."""

    def __init__(self):
        self.calls = []

    def can_capture(self, x):
        return True

    def __call__(self, module, function, *tensors):
        self.calls.append((function, tensors))
        return function(*tensors)


def test_a_captured_function_depends_on_its_tensors_alone(
    body, feedback, grey, painted, rendered_frames, posed, context, monkeypatch
):
    """A CUDA graph of the first call gives the results of the second, if it gets the tensors of the second."""
    feedback.graph_cache = Capture()
    monkeypatch.setattr("core.model.feedback.backend_name", lambda name, device: "triton")
    other = rendered_frames.map(lambda x: x * 0.97)
    axes = surface_axes(body)[0]
    with torch.no_grad():
        feedback(grey, context, axes, rendered_frames, posed)
        expected = feedback(painted, 2 * context, -axes, other, posed.map(lambda x: x * 1.01))
        (first, _), (_, tensors) = feedback.graph_cache.calls
        actual = dict(zip(CHANGED_FIELDS, first(*tensors)))
    for name, value in actual.items():
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-5, atol=1e-6)
    known = {id(x) for x in tensors}
    assert all(id(getattr(painted, name)) in known for name in TENSOR_FIELDS)


def test_graphs_of_the_rounds_can_be_switched_off(monkeypatch):
    monkeypatch.delenv("HGG_FEEDBACK_GRAPHS", raising=False)
    assert Feedback(CONTEXT, rounds=1).graph_cache.enabled
    monkeypatch.setenv("HGG_FEEDBACK_GRAPHS", "0")
    assert not Feedback(CONTEXT, rounds=1).graph_cache.enabled


@pytest.mark.slow
def test_compiled_kernels_give_the_same_errors_without_a_second_backward_pass(grey, axes, rendered_frames, posed):
    pytest.importorskip("numba")
    blind = replace(rendered_frames, alphas=rendered_frames.alphas.clone())
    blind.alphas[:, 0, 1] = 0
    for inputs in (rendered_frames, blind):
        expected = rendering_errors(grey, axes, inputs, posed, "torch")
        errors = rendering_errors(grey, axes, inputs, posed, "numba")
        for name, own in vars(errors).items():
            other = getattr(expected, name)
            assert (own - other).norm() < 1e-4 * other.norm(), name


@pytest.mark.gpu
def test_kernels_give_the_same_errors(grey, axes, rendered_frames, posed, body):
    expected = rendering_errors(grey, axes, rendered_frames, posed)
    there = [x.to("cuda") for x in (grey, axes, rendered_frames)]
    errors = rendering_errors(*there, copy.deepcopy(body).to("cuda").pose(there[2].body))
    seen = expected.pixels > 0.5
    for name in ("residuals", "pixels", "descent"):
        own, other = getattr(errors, name).cpu()[seen], getattr(expected, name)[seen]
        assert (own - other).abs().mean() < 0.01 * other.abs().mean(), name


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["training", "no gradients", "inference mode"])
def test_replayed_rounds_give_the_results_of_launched_ones(body, grey, painted, rendered_frames, context, mode):
    body = copy.deepcopy(body).to("cuda")
    frames, context, axes = rendered_frames.to("cuda"), context.cuda(), surface_axes(body)[0]
    torch.manual_seed(0)
    launched = Feedback(CONTEXT, rounds=3).cuda()
    replayed = copy.deepcopy(launched)
    launched.graph_cache.enabled, replayed.graph_cache.enabled = False, True
    for avatar in (grey.to("cuda"), painted.to("cuda")) * 2:  # the second call captures
        results = []
        for feedback in (launched, replayed):
            own = replace(avatar, colors=avatar.colors.clone().requires_grad_(mode == "training"))
            with torch.inference_mode(mode == "inference mode"), torch.set_grad_enabled(mode == "training"):
                corrected = feedback(own, context, axes, frames, body.pose(frames.body))
            values = [getattr(corrected, name) for name in CHANGED_FIELDS]
            if mode == "training":
                values += torch.autograd.grad(
                    sum(x.square().sum() for x in values), [own.colors, *feedback.parameters()]
                )
            results.append(values)
        for one, other in zip(*results):
            assert (one - other).norm() < 1e-3 * other.norm() + 1e-6  # sums of atomic additions vary
    assert any(graph is not None for graph in replayed.graph_cache._graphs.values())
