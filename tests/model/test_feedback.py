"""Feedback: what the input pictures say against an avatar, and its correction."""

import copy
from dataclasses import replace

import pytest
import torch

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_avatar
from core.model.feedback import CHANGES, Feedback, change, compare
from core.model.surface import surface_axes
from core.types.frames import Frames
from smpl_renderer.rotations import quat_to_matrix

CONTEXT = 6
POSITION, OPACITY, SIZES, TURN = slice(0, 3), 3, slice(4, 7), slice(7, 10)


@pytest.fixture(scope="module")
def painted(body, plain) -> Avatar:
    """The body with red and blue bands of 20 cm."""
    bands = torch.sin(body.v_template[:, 1] * 2 * torch.pi / 0.4) > 0
    return replace(plain, colors=torch.stack([bands, torch.zeros_like(bands), ~bands], -1).float()[None])


@pytest.fixture(scope="module")
def posed(body, photographed):
    return body.pose(photographed.body)


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


def error(avatar: Avatar, body, frames: Frames) -> torch.Tensor:
    with torch.no_grad():
        return (render_avatar(avatar, body, frames.body, frames.cameras).colors - frames.images).square().mean()


def test_no_change_changes_nothing(painted, axes):
    same = change(painted, axes, torch.zeros(*painted.opacities.shape, CHANGES))
    for name in ("offsets", "scales", "quats", "colors"):
        torch.testing.assert_close(getattr(same, name), getattr(painted, name), rtol=0, atol=1e-6)
    torch.testing.assert_close(same.opacities, painted.opacities, rtol=0, atol=1e-3)


def test_positions_move_along_the_skins_axes(painted, axes):
    changes = torch.zeros(*painted.opacities.shape, CHANGES)
    changes[..., 2] = 1.0
    moved = change(painted, axes, changes).offsets - painted.offsets
    normals = axes[..., 2]
    torch.testing.assert_close(moved, (moved * normals).sum(-1, keepdim=True) * normals, rtol=0, atol=1e-6)
    assert ((moved * normals).sum(-1) - 0.01).abs().max() < 5e-4  # tanh takes a little


def test_turns_are_about_the_gaussians_own_axes(painted, axes):
    changes = torch.zeros(*painted.opacities.shape, CHANGES)
    changes[..., 9] = 0.4
    before, after = (quat_to_matrix(a.quats) for a in (painted, change(painted, axes, changes)))
    turn = before.transpose(-1, -2) @ after
    angle = torch.atan2(turn[..., 1, 0], turn[..., 0, 0])
    torch.testing.assert_close(angle, torch.full_like(angle, 0.1), rtol=0, atol=1e-3)
    torch.testing.assert_close(turn[..., 2, 2], torch.ones_like(angle), rtol=0, atol=1e-5)


def test_nothing_speaks_against_what_is_right(painted, axes, photographed, posed):
    errors = compare(painted, axes, photographed, posed)
    assert errors.residuals.abs().max() < 1e-3  # opacities keep 1e-3 from 0 and 1
    assert errors.descent.abs().max() < 1e-3
    assert (errors.pixels > 0.5).float().mean() > 0.5


def test_residuals_are_the_missing_colour(painted, grey, axes, photographed, posed):
    errors = compare(grey, axes, photographed, posed)
    seen = errors.pixels > 0.5
    assert seen.float().mean() > 0.3
    missing = (painted.colors - grey.colors)[seen]
    assert (errors.residuals[seen] - missing).abs().mean() < 0.35 * missing.abs().mean()  # neighbours show through


def test_pixels_count_what_a_gaussian_covers(painted, axes, photographed, posed, body):
    with torch.no_grad():
        alphas = render_avatar(painted, body, photographed.body, photographed.cameras).alphas
    total = compare(painted, axes, photographed, posed).pixels.sum()
    torch.testing.assert_close(total, alphas.sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("wrong", "numbers", "sign"),
    [
        (lambda a, n: replace(a, offsets=a.offsets + 0.03 * n), slice(2, 3), -1),
        (lambda a, n: replace(a, scales=2.0 * a.scales), SIZES, -1),
        (lambda a, n: replace(a, scales=0.5 * a.scales, opacities=0.8 * a.opacities), SIZES, 1),
        (lambda a, n: replace(a, opacities=0.3 * a.opacities), slice(OPACITY, OPACITY + 1), 1),
    ],
    ids=["too far out", "too large", "too small", "too thin"],
)
def test_descent_points_to_what_is_right(painted, axes, photographed, posed, wrong, numbers, sign):
    errors = compare(wrong(painted, axes[..., 2]), axes, photographed, posed)
    assert sign * errors.descent[..., numbers].mean() > 0


def test_numbers_do_not_depend_on_how_many_pictures_agree(grey, axes, photographed, posed):
    twice = Frames(*(torch.cat([x, x], 1) for x in (photographed.images, photographed.alphas)), None, None)
    twice = replace(twice, cameras=photographed.cameras[:, [0, 1, 0, 1]], body=photographed.body[:, [0, 1, 0, 1]])
    once, again = compare(grey, axes, photographed, posed), compare(grey, axes, twice, posed[:, [0, 1, 0, 1]])
    torch.testing.assert_close(again.residuals, once.residuals, rtol=0, atol=1e-4)
    torch.testing.assert_close(again.pixels, 2 * once.pixels, rtol=1e-4, atol=1e-4)


def test_a_view_whose_mask_is_empty_says_nothing(grey, axes, photographed, posed):
    images, alphas = photographed.images.clone(), photographed.alphas.clone()
    images[:, :, 3], alphas[:, :, 3] = 1, 0  # on white
    blind = replace(photographed, images=images, alphas=alphas)
    without, with_it = (compare(grey, axes, x, posed) for x in (photographed.select_views([0, 1, 2]), blind))
    for name in ("residuals", "pixels", "descent"):
        torch.testing.assert_close(getattr(with_it, name), getattr(without, name), rtol=1e-4, atol=1e-5)


def test_untrained_it_already_paints_what_was_seen(body, feedback, grey, photographed, posed, context):
    with torch.no_grad():
        avatar = feedback(grey, context, surface_axes(body)[0], photographed, posed)
    assert error(avatar, body, photographed) < 0.4 * error(grey, body, photographed)


def test_training_mends_more_than_colours(body, painted, photographed, posed, context):
    """A few steps of descent on the weights teach to shrink what is too large, in a view that is not shown."""
    torch.manual_seed(0)
    feedback = Feedback(CONTEXT, rounds=2)
    fat = replace(painted, scales=2.0 * painted.scales)
    shown, hidden = photographed.select_views([0, 1, 2]), photographed.select_views([3])
    before = feedback(fat, context, surface_axes(body)[0], shown, posed).detach()
    optimizer = torch.optim.Adam(feedback.parameters(), lr=1e-2)
    for _ in range(8):
        avatar = feedback(fat, context, surface_axes(body)[0], shown, posed)
        loss = (render_avatar(avatar, body, shown.body, shown.cameras).colors - shown.images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = feedback(fat, context, surface_axes(body)[0], shown, posed).detach()
    assert error(after, body, hidden) < 0.7 * error(before, body, hidden)
    assert after.scales.mean() < 0.9 * before.scales.mean()


def test_the_transparent_stays_so(body, feedback, grey, photographed, posed, context):
    gone = replace(grey, opacities=grey.opacities * (torch.arange(grey.count) % 2))
    avatar = feedback(gone, context, surface_axes(body)[0], photographed, posed)
    assert torch.equal(avatar.opacities > 0, gone.opacities > 0)
    assert all(x.isfinite().all() for x in (avatar.colors, avatar.scales, avatar.offsets, avatar.quats))


def test_persons_do_not_see_each_other(body, feedback, grey, photographed, posed, context):
    images = torch.cat([photographed.images, 1 - photographed.images])
    pair = Frames.stack([photographed[0], photographed[0]])
    pair = Frames(images, pair.alphas, pair.cameras, pair.body)
    avatars = grey.map(lambda x: x.expand(2, *x.shape[1:]))
    with torch.no_grad():
        both = feedback(avatars, context.expand(2, -1, -1), surface_axes(body)[0], pair, body.pose(pair.body))
        alone = feedback(grey, context, surface_axes(body)[0], photographed, posed)
    torch.testing.assert_close(both.colors[:1], alone.colors, rtol=0, atol=1e-4)
    assert (both.colors[1] - both.colors[0]).abs().mean() > 0.1


def test_rounds_look_at_different_moments(body, make_frames, grey, context, monkeypatch):
    frames = make_frames(frames=6, views=4, size=32)
    posed = body.pose(frames.body)
    shown = []

    def note(avatar, axes, inputs, posed, backend):
        shown.append(inputs.images)
        return compare(avatar, axes, inputs, posed, backend)

    monkeypatch.setattr("core.model.feedback.compare", note)
    with torch.no_grad():
        Feedback(CONTEXT, rounds=2)(grey, context, surface_axes(body)[0], frames, posed)
        Feedback(CONTEXT, rounds=1)(grey, context, surface_axes(body)[0], frames.select_views([0, 1]), posed)
    assert torch.equal(shown[0], frames.images[:, ::2]) and torch.equal(shown[1], frames.images[:, 1::2])
    assert torch.equal(shown[2], frames.images[:, :, :2])  # of two views, there is room for all


def test_it_works_in_inference_mode(body, feedback, grey, photographed, context):
    with torch.no_grad():
        expected = feedback(grey, context, surface_axes(body)[0], photographed, body.pose(photographed.body))
    with torch.inference_mode():
        inputs = photographed.map(lambda x: x * 1)
        avatar = feedback(grey, context, surface_axes(body)[0], inputs, body.pose(inputs.body))
    torch.testing.assert_close(avatar.colors, expected.colors, rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_kernels_say_the_same(grey, axes, photographed, posed, body):
    expected = compare(grey, axes, photographed, posed)
    there = [x.to("cuda") for x in (grey, axes, photographed)]
    errors = compare(*there, copy.deepcopy(body).to("cuda").pose(there[2].body))
    seen = expected.pixels > 0.5
    for name in ("residuals", "pixels", "descent"):
        own, other = getattr(errors, name).cpu()[seen], getattr(expected, name)[seen]
        assert (own - other).abs().mean() < 0.01 * other.abs().mean(), name
