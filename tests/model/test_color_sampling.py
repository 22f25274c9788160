"""Image colour sampling: observations of an avatar's Gaussians, and the colours blended from them."""

from dataclasses import replace

import pytest
import torch

from core.avatar.avatar import Avatar
from core.model.color_sampling import ColorSampling
from core.model.surface import surface_axes
from core.ops.color_observations import observe
from core.types.cameras import look_at
from core.types.frames import Frames

CONTEXT = 6


@pytest.fixture(scope="module")
def normals(body):
    return surface_axes(body)[0][..., 2]


@pytest.fixture(scope="module")
def painted(body, plain) -> Avatar:
    """The body, red where it faces +z in the rest pose and blue elsewhere, with green bands of 20 cm."""
    front = surface_axes(body)[0][:, 2, 2] > 0
    bands = torch.sin(body.v_template[:, 1] * 2 * torch.pi / 0.4) > 0
    return replace(plain, colors=torch.stack([front, bands, ~front], -1).float()[None])


@pytest.fixture(scope="module")
def grey(painted) -> Avatar:
    """The same body without its colours."""
    return replace(painted, colors=torch.full_like(painted.colors, 0.5))


class Sampling(ColorSampling):
    """Image colour sampling, with the observations of its avatar."""

    def __init__(self):
        super().__init__(CONTEXT)

    def forward(self, avatar, context, normals, inputs, posed):
        return super().forward(avatar, context, observe(avatar, normals, inputs, posed))


@pytest.fixture
def color_sampling() -> ColorSampling:
    torch.manual_seed(0)
    return Sampling()


@pytest.fixture(scope="module")
def context(body):
    return torch.randn(1, body.num_vertices, CONTEXT, generator=torch.Generator().manual_seed(0))


def blind_views(frames: Frames, kind: str) -> Frames:
    """Views of the same frames that do not show the person."""
    view = frames.select_views([0])
    if kind == "mask is empty":
        return Frames(view.images, torch.zeros_like(view.alphas), view.cameras, view.body)
    if kind == "faces away":
        eye = torch.tensor([0.0, 0.0, 3.0])
        viewmats = look_at(eye, 2 * eye, torch.tensor([0.0, 1.0, 0.0]))
    else:
        eye = torch.tensor([0.0, 0.0, 3.0])
        viewmats = look_at(eye, torch.tensor([9.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 0.0]))
    cameras = replace(view.cameras, viewmats=viewmats.expand_as(view.cameras.viewmats))
    return Frames(view.images, view.alphas, cameras, view.body)


def join_views(*parts: Frames) -> Frames:
    cameras = replace(
        parts[0].cameras,
        viewmats=torch.cat([p.cameras.viewmats for p in parts], 2),
        Ks=torch.cat([p.cameras.Ks for p in parts], 2),
    )
    images, alphas = torch.cat([p.images for p in parts], 2), torch.cat([p.alphas for p in parts], 2)
    return Frames(images, alphas, cameras, parts[0].body)


def test_untrained_color_sampling_gives_visible_colours(
    body, color_sampling, grey, painted, rendered_frames, context, normals
):
    posed = body.pose(rendered_frames.body)
    seen = observe(grey, normals, rendered_frames, posed).visible.any(2).any(1)
    assert seen.float().mean() > 0.8
    avatar = color_sampling(grey, context, normals, rendered_frames, posed)
    before = (grey.colors - painted.colors)[seen].square().mean()
    after = (avatar.colors - painted.colors)[seen].square().mean()
    assert after < 0.35 * before  # the bands' edges are blurred


@pytest.mark.parametrize("kind", ["mask is empty", "faces away", "faces past"])
def test_a_view_that_shows_nothing_changes_nothing(body, color_sampling, grey, rendered_frames, context, normals, kind):
    posed = body.pose(rendered_frames.body)
    before = color_sampling(grey, context, normals, rendered_frames, posed)
    after = color_sampling(
        grey, context, normals, join_views(rendered_frames, blind_views(rendered_frames, kind)), posed
    )
    for name in ("colors", "opacities", "scales"):
        # Sums with additional zero terms may round differently.
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=1e-6)


def test_invisible_gaussians_keep_their_colour(body, color_sampling, painted, rendered_frames, context, normals):
    posed = body.pose(rendered_frames.body)
    avatar = color_sampling(painted, context, normals, blind_views(rendered_frames, "faces away"), posed)
    torch.testing.assert_close(avatar.colors, painted.colors, rtol=0, atol=0)


def test_the_order_of_frames_and_views_does_not_matter(body, color_sampling, grey, rendered_frames, context, normals):
    posed = body.pose(rendered_frames.body)
    before = color_sampling(grey, context, normals, rendered_frames, posed)
    flipped = rendered_frames.select_views([2, 0, 3, 1])
    flipped = Frames(flipped.images.flip(1), flipped.alphas.flip(1), flipped.cameras[:, [1, 0]], flipped.body)
    after = color_sampling(grey, context, normals, flipped, posed[:, [1, 0]])
    torch.testing.assert_close(after.colors, before.colors, rtol=0, atol=1e-5)


def test_the_side_away_from_the_camera_is_invisible(body, grey, rendered_frames, normals):
    view = rendered_frames[:, :1].select_views([0])
    posed = body.pose(view.body)
    visible = observe(grey, normals, view, posed).visible[0, 0, 0]
    towards = (posed.rotations[0, 0] @ normals[..., None])[..., 2, 0]  # the camera is at +z
    assert visible[towards < 0].float().mean() < 0.05
    assert visible[towards > 0.5].float().mean() > 0.6


def test_gaussians_behind_the_surface_are_invisible(body, grey, rendered_frames, normals):
    """Gaussians 30 cm behind the chest are occluded by the others, although their normals point to the camera."""
    view = rendered_frames[:, :1].select_views([0])
    posed = body.pose(view.body)
    chest = ((body.v_template[:, 1] - 0.15).abs() < 0.1) & (normals[:, 2] > 0.8) & (body.v_template[:, 0].abs() < 0.1)
    behind = replace(grey, offsets=grey.offsets - 0.3 * chest[:, None] * normals)
    # They do not occlude each other, so every second one stays in front.
    stays = torch.arange(body.num_vertices) % 2 == 0
    behind = replace(behind, offsets=torch.where(stays[:, None], grey.offsets, behind.offsets))
    assert observe(grey, normals, view, posed).visible[0, 0, 0, chest].float().mean() > 0.9
    assert observe(behind, normals, view, posed).visible[0, 0, 0, chest & ~stays].float().mean() < 0.1


def test_nearly_transparent_gaussians_do_not_occlude(body, color_sampling, grey, rendered_frames, context, normals):
    """Without opaque Gaussians the depth buffer is empty: what faces the camera is visible, and results are finite."""
    faint = replace(grey, opacities=torch.full_like(grey.opacities, 0.1))
    view = rendered_frames[:, :1].select_views([0])
    posed = body.pose(view.body)
    seen = observe(faint, normals, view, posed)
    towards = (posed.rotations[0, 0] @ normals[..., None])[..., 2, 0]  # the camera is at +z
    inside = observe(grey, normals, view, posed).outside[0] == 0
    assert seen.visible[0, 0, 0, (towards > 0.3) & inside].float().mean() > 0.98  # except at the silhouette
    assert seen.features.isfinite().all()
    assert color_sampling(faint, context, normals, view, posed).colors.isfinite().all()


def test_transparent_gaussians_stay_unchanged(body, color_sampling, grey, rendered_frames, context, normals):
    gone = replace(grey, opacities=torch.zeros_like(grey.opacities))
    avatar = color_sampling(gone, context, normals, rendered_frames, body.pose(rendered_frames.body))
    torch.testing.assert_close(avatar.colors, gone.colors, rtol=0, atol=0)
    assert (avatar.opacities == 0).all()


def test_gaussians_outside_of_the_silhouette_are_counted(body, grey, rendered_frames, normals):
    posed = body.pose(rendered_frames.body)
    far_out = replace(grey, offsets=grey.offsets + 0.25 * normals)
    inside, outside = (observe(a, normals, rendered_frames, posed).outside for a in (grey, far_out))
    assert (inside > 1).float().mean() < 0.02
    assert (outside > 1).float().mean() > 0.5


def test_gradients_reach_all_weights_the_own_colours_and_the_context(
    body, color_sampling, grey, rendered_frames, context, normals
):
    posed = body.pose(rendered_frames.body)
    own = grey.colors.clone().requires_grad_()
    features = context.clone().requires_grad_()
    avatar = color_sampling(replace(grey, colors=own), features, normals, rendered_frames, posed)
    (avatar.colors.square().sum() + avatar.opacities.square().sum() + avatar.scales.log().square().sum()).backward()
    for tensor in (own, features, *color_sampling.parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_subjects_do_not_influence_each_other(body, color_sampling, grey, rendered_frames, context, normals):
    pair = Frames.stack([rendered_frames[0], rendered_frames[0]])
    pair = Frames(torch.stack([pair.images[0], 1 - pair.images[1]]), pair.alphas, pair.cameras, pair.body)
    avatars = grey.map(lambda x: x.expand(2, *x.shape[1:]))
    posed = body.pose(pair.body)
    both = color_sampling(avatars, context.expand(2, -1, -1), normals, pair, posed)
    alone = color_sampling(grey, context, normals, rendered_frames, posed[:1])
    torch.testing.assert_close(both.colors[:1], alone.colors, rtol=0, atol=1e-5)
    assert (both.colors[1] - both.colors[0]).abs().mean() > 0.1
