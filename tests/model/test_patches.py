"""Patches of the body, and attention to them: global attention of the graph, and colours of what no image shows."""

from dataclasses import replace

import pytest
import torch

from core.avatar.avatar import Avatar
from core.model.color_attention import HEADS, ColorAttention
from core.model.patches import PatchAttention, PatchPooling, split_surface
from core.model.surface import surface_axes
from core.ops.color_observations import observe
from core.options import GraphOptions

COUNT, CONTEXT = 64, 8


@pytest.fixture(scope="module")
def patches(body):
    return split_surface(body, COUNT)


@pytest.fixture(scope="module")
def painted(plain) -> Avatar:
    """The avatar that `rendered_frames` show."""
    return plain


@pytest.fixture(scope="module")
def seen(body, plain, rendered_frames):
    """Observations by one camera, which sees half of the body."""
    view = rendered_frames[:, :1].select_views([0])
    return observe(plain, surface_axes(body)[0][..., 2], view, body.pose(view.body))


@pytest.fixture
def color_attention(patches) -> ColorAttention:
    torch.manual_seed(0)
    return ColorAttention(CONTEXT, patches, queries=1)


@pytest.fixture(scope="module")
def context(body):
    return torch.randn(1, body.num_vertices, CONTEXT, generator=torch.Generator().manual_seed(0))


def test_each_vertex_belongs_to_one_patch_of_its_surroundings(body, patches):
    assert len(patches.vertices) == COUNT
    assert patches.vertices[patches.mask].sort().values.equal(torch.arange(body.num_vertices))
    for vertices, mask in zip(patches.vertices, patches.mask):
        own = body.v_template[vertices[mask]]
        assert len(own) > 0
        assert (own - own.mean(0)).norm(dim=-1).max() < 0.25  # a body of 64 patches


def test_both_sides_of_thin_parts_are_in_different_patches(body):
    """Patches by distance alone, without `NORMAL_COST`, have 8 % of the vertices on the other side of theirs."""
    patches, normals = split_surface(body, 256), surface_axes(body)[0][..., 2]
    of_patches = PatchPooling(patches)(normals, torch.ones(len(normals)))
    opposed = ((normals[patches.vertices] * of_patches[:, None]).sum(-1) < 0) & patches.mask
    assert opposed.sum() < 0.01 * len(normals)


@pytest.mark.slow
def test_more_patches_than_vertices_are_one_patch_per_vertex(body):
    patches = split_surface(body, 2 * body.num_vertices)
    assert patches.mask.all()
    assert patches.vertices.shape == (body.num_vertices, 1)


def test_pooling_gives_weighted_means(patches, body):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, body.num_vertices, 3, generator=generator)
    weights = torch.rand(2, body.num_vertices, generator=generator)
    weights[1, patches.vertices[5][patches.mask[5]]] = 0
    means = PatchPooling(patches)(values, weights)
    for patch in (0, 5, COUNT - 1):
        own = patches.vertices[patch][patches.mask[patch]]
        expected = (values[0, own] * weights[0, own, None]).sum(0) / weights[0, own].sum()
        torch.testing.assert_close(means[0, patch], expected)
    assert means[1, 5].abs().max() == 0


def test_untrained_attention_to_patches_changes_nothing_and_a_trained_one_reaches_every_vertex(patches, body):
    torch.manual_seed(0)
    node, pooling = PatchAttention(GraphOptions(features=16, heads=2)), PatchPooling(patches)
    x, counts = torch.randn(1, body.num_vertices, 2, 16), torch.ones(1, body.num_vertices)
    assert node(x, counts, patches.encoding, pooling).equal(x)
    torch.nn.init.normal_(node.out.weight)
    touched = x.clone()
    touched[0, 0] = -touched[0, 0]  # one vertex, from which all others are reached at once
    change = node(touched, counts, patches.encoding, pooling) - node(x, counts, patches.encoding, pooling)
    assert (change[0].abs().amax((1, 2)) > 0).float().mean() > 0.99


def test_untrained_attention_to_patches_prefers_patches_nearby(patches, body):
    torch.manual_seed(0)
    node, pooling = PatchAttention(GraphOptions(features=16, heads=2)), PatchPooling(patches)
    everywhere = torch.ones(body.num_vertices)
    with torch.no_grad():
        logits = node.query_position(patches.encoding) @ node.key_position(pooling(patches.encoding, everywhere)).T
    preferred = pooling(body.v_template, everywhere)[logits.argmax(-1)]
    assert (body.v_template - preferred).norm(dim=-1).median() < 0.15  # metres; 0.7 with independent maps


def test_attention_distinguishes_patches_without_gaussians(patches, body):
    torch.manual_seed(0)
    node, pooling = PatchAttention(GraphOptions(features=16, heads=2)), PatchPooling(patches)
    torch.nn.init.normal_(node.out.weight)
    x, counts = torch.randn(1, body.num_vertices, 2, 16), torch.zeros(1, body.num_vertices)
    some = counts.clone()
    some[0, patches.vertices[3][patches.mask[3]]] = 50
    assert not node(x, counts, patches.encoding, pooling).allclose(node(x, some, patches.encoding, pooling))


def test_unseen_gaussians_take_colours_of_what_is_seen_and_others_keep_theirs(plain, seen, color_attention, context):
    """Shades of red where the camera sees the body, grey elsewhere: copied colours are red."""
    visible = seen.visible.flatten(0, 2).any(0)
    shades = torch.rand(len(visible), generator=torch.Generator().manual_seed(3))
    red = torch.stack([0.7 + 0.3 * shades, 0.2 * shades, 0.2 * shades], -1)
    colors = torch.where(visible[:, None], red, torch.tensor(0.5))[None]
    with torch.no_grad():
        avatar, _ = color_attention(replace(plain, colors=colors), context, seen)
    well = seen.features[0, :, :, 4].sum((0, 1)) > 0.5
    moved = (avatar.colors - colors)[0]
    assert moved[well].abs().max() < 0.02
    assert moved[~visible, 0].min() > 0.05  # towards red
    assert moved[~visible, 1].max() < -0.05


def test_nothing_seen_gives_finite_colours_and_gradients(plain, seen, color_attention, context):
    blind = replace(seen, features=torch.zeros_like(seen.features))
    own = plain.colors.clone().requires_grad_()
    avatar, updated = color_attention(replace(plain, colors=own), context, blind)
    (avatar.colors.sum() + updated.square().sum()).backward()
    assert avatar.colors.isfinite().all()
    assert own.grad.isfinite().all()


def test_gradients_reach_all_weights(plain: Avatar, seen, color_attention, context):
    generator = torch.Generator().manual_seed(2)
    colors = torch.rand(plain.colors.shape, generator=generator).requires_grad_()
    features = context.clone().requires_grad_()
    avatar, updated = color_attention(replace(plain, colors=colors), features, seen)
    (avatar.colors.square().sum() + updated.square().sum()).backward()
    for name, tensor in [("colors", colors), ("context", features), *color_attention.named_parameters()]:
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().max() > 0, name
    assert color_attention.to_shares.out_features == HEADS + 1
