"""The second look: what the input pictures show of an avatar."""

from dataclasses import replace

import pytest
import torch

from core.avatar.avatar import Avatar
from core.model.color_sampling import ColorSampling
from core.model.surface import surface_axes
from core.ops.observations import observe
from core.types.cameras import look_at
from core.types.frames import Frames

CONTEXT = 6


@pytest.fixture(scope="module")
def normals(body):
    return surface_axes(body)[0][..., 2]


@pytest.fixture(scope="module")
def painted(body, plain) -> Avatar:
    """The body, red where it faces +z in the rest pose, blue behind, with green bands of 20 cm."""
    front = surface_axes(body)[0][:, 2, 2] > 0
    bands = torch.sin(body.v_template[:, 1] * 2 * torch.pi / 0.4) > 0
    return replace(plain, colors=torch.stack([front, bands, ~front], -1).float()[None])


@pytest.fixture(scope="module")
def grey(painted) -> Avatar:
    """The same body before anybody looked at the pictures."""
    return replace(painted, colors=torch.full_like(painted.colors, 0.5))


@pytest.fixture
def look() -> ColorSampling:
    torch.manual_seed(0)
    return ColorSampling(CONTEXT)


@pytest.fixture(scope="module")
def context(body):
    return torch.randn(1, body.num_vertices, CONTEXT, generator=torch.Generator().manual_seed(0))


def blind_views(frames: Frames, kind: str) -> Frames:
    """Views of the same moments that show nothing of the person."""
    view = frames.select_views([0])
    if kind == "mask is empty":
        return Frames(view.images, torch.zeros_like(view.alphas), view.cameras, view.body)
    if kind == "looks away":
        eye = torch.tensor([0.0, 0.0, 3.0])
        viewmats = look_at(eye, 2 * eye, torch.tensor([0.0, 1.0, 0.0]))
    else:  # looks past the person
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


def test_untrained_it_already_paints_what_was_seen(body, look, grey, painted, photographed, context, normals):
    posed = body.pose(photographed.body)
    seen = observe(grey, normals, photographed, posed).visible.any(2).any(1)
    assert seen.float().mean() > 0.8
    avatar = look(grey, context, normals, photographed, posed)
    before = (grey.colors - painted.colors)[seen].square().mean()
    after = (avatar.colors - painted.colors)[seen].square().mean()
    assert after < 0.35 * before  # the rest is blur at the edges of the bands


@pytest.mark.parametrize("kind", ["mask is empty", "looks away", "looks past"])
def test_a_view_that_sees_nothing_changes_nothing(body, look, grey, photographed, context, normals, kind):
    posed = body.pose(photographed.body)
    before = look(grey, context, normals, photographed, posed)
    after = look(grey, context, normals, join_views(photographed, blind_views(photographed, kind)), posed)
    for name in ("colors", "opacities", "scales"):
        # Sums over more terms, the new ones zero, may round differently.
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=1e-6)


def test_without_a_visible_pixel_the_colour_stays(body, look, painted, photographed, context, normals):
    posed = body.pose(photographed.body)
    avatar = look(painted, context, normals, blind_views(photographed, "looks away"), posed)
    torch.testing.assert_close(avatar.colors, painted.colors, rtol=0, atol=0)


def test_the_order_of_moments_and_views_does_not_matter(body, look, grey, photographed, context, normals):
    posed = body.pose(photographed.body)
    before = look(grey, context, normals, photographed, posed)
    flipped = photographed.select_views([2, 0, 3, 1])
    flipped = Frames(flipped.images.flip(1), flipped.alphas.flip(1), flipped.cameras[:, [1, 0]], flipped.body)
    after = look(grey, context, normals, flipped, posed[:, [1, 0]])
    torch.testing.assert_close(after.colors, before.colors, rtol=0, atol=1e-5)


def test_the_far_side_is_hidden(body, grey, photographed, normals):
    view = photographed[:, :1].select_views([0])
    posed = body.pose(view.body)
    visible = observe(grey, normals, view, posed).visible[0, 0, 0]
    towards = (posed.rotations[0, 0] @ normals[..., None])[..., 2, 0]  # the camera is at +z
    assert visible[towards < 0].float().mean() < 0.05
    assert visible[towards > 0.5].float().mean() > 0.6


def test_what_stands_in_front_hides(body, grey, photographed, normals):
    """A Gaussian 30 cm behind the chest's skin, but with the same normal, is not seen; moved outside it would be."""
    view = photographed[:, :1].select_views([0])
    posed = body.pose(view.body)
    chest = ((body.v_template[:, 1] - 0.15).abs() < 0.1) & (normals[:, 2] > 0.8) & (body.v_template[:, 0].abs() < 0.1)
    behind = replace(grey, offsets=grey.offsets - 0.3 * chest[:, None] * normals)
    # The hidden ones do not hide each other: some of the skin stays where it is, in front.
    stays = torch.arange(body.num_vertices) % 2 == 0
    behind = replace(behind, offsets=torch.where(stays[:, None], grey.offsets, behind.offsets))
    assert observe(grey, normals, view, posed).visible[0, 0, 0, chest].float().mean() > 0.9
    assert observe(behind, normals, view, posed).visible[0, 0, 0, chest & ~stays].float().mean() < 0.1


def test_mist_hides_nothing(body, look, grey, photographed, context, normals):
    """Where nothing is opaque, all that faces the camera is seen, and the empty depth buffer does no harm."""
    mist = replace(grey, opacities=torch.full_like(grey.opacities, 0.1))
    view = photographed[:, :1].select_views([0])
    posed = body.pose(view.body)
    seen = observe(mist, normals, view, posed)
    towards = (posed.rotations[0, 0] @ normals[..., None])[..., 2, 0]  # the camera is at +z
    inside = observe(grey, normals, view, posed).outside[0] == 0
    assert seen.visible[0, 0, 0, (towards > 0.3) & inside].float().mean() > 0.98  # the rest ends at the silhouette
    assert seen.numbers.isfinite().all()
    assert look(mist, context, normals, view, posed).colors.isfinite().all()


def test_the_transparent_is_not_looked_up(body, look, grey, photographed, context, normals):
    gone = replace(grey, opacities=torch.zeros_like(grey.opacities))
    avatar = look(gone, context, normals, photographed, body.pose(photographed.body))
    torch.testing.assert_close(avatar.colors, gone.colors, rtol=0, atol=0)
    assert (avatar.opacities == 0).all()


def test_beside_the_silhouette_is_noticed(body, grey, photographed, normals):
    posed = body.pose(photographed.body)
    far_out = replace(grey, offsets=grey.offsets + 0.25 * normals)
    inside, outside = (observe(a, normals, photographed, posed).outside for a in (grey, far_out))
    assert (inside > 1).float().mean() < 0.02
    assert (outside > 1).float().mean() > 0.5


def test_gradients_reach_all_weights_the_colours_and_the_context(body, look, grey, photographed, context, normals):
    posed = body.pose(photographed.body)
    own = grey.colors.clone().requires_grad_()
    features = context.clone().requires_grad_()
    avatar = look(replace(grey, colors=own), features, normals, photographed, posed)
    (avatar.colors.square().sum() + avatar.opacities.square().sum() + avatar.scales.log().square().sum()).backward()
    for tensor in (own, features, *look.parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_persons_do_not_see_each_other(body, look, grey, photographed, context, normals):
    pair = Frames.stack([photographed[0], photographed[0]])
    pair = Frames(torch.stack([pair.images[0], 1 - pair.images[1]]), pair.alphas, pair.cameras, pair.body)
    avatars = grey.map(lambda x: x.expand(2, *x.shape[1:]))
    posed = body.pose(pair.body)
    both = look(avatars, context.expand(2, -1, -1), normals, pair, posed)
    alone = look(grey, context, normals, photographed, posed[:1])
    torch.testing.assert_close(both.colors[:1], alone.colors, rtol=0, atol=1e-5)
    assert (both.colors[1] - both.colors[0]).abs().mean() > 0.1
