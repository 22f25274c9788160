"""Edits of avatars, and scripts/edit.py."""

from dataclasses import replace

import pytest
import torch
import tyro

from core.avatar.editing import PARTS, PLURALS, in_parts, merged, pruned, recolored, rendered_weights, selected
from core.avatar.file import load_avatar, load_views_seen, save_avatar
from core.avatar.rendering import render_avatar
from core.inference.trajectories import turntable
from core.motion.builtin import builtin_motion
from core.motion.motion import apply_motion
from scripts.edit import main, psnr
from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.errors import InputError


@pytest.fixture(scope="module")
def avatar(plain):
    generator = torch.Generator().manual_seed(0)
    avatar = plain[0]
    return replace(avatar, colors=torch.rand(avatar.count, 3, generator=generator))


def test_parts_divide_the_body(avatar, body):
    masks = torch.stack([in_parts(avatar, body, (name,)) for name in PARTS])
    assert (masks.sum(0) == 1).all()
    both = in_parts(avatar, body, ("left_foot", "right_foot"))
    assert torch.equal(both, in_parts(avatar, body, ("feet",))) and set(PLURALS) == {"arms", "hands", "legs", "feet"}
    heights = body.v_template[avatar.vertex_ids, 1]
    assert heights[both].max() < heights[in_parts(avatar, body, ("head",))].min()
    assert (body.v_template[avatar.vertex_ids, 0][in_parts(avatar, body, ("left_hand",))] > 0.3).all()
    with pytest.raises(InputError, match="left_arm"):
        in_parts(avatar, body, ("tail",))


def test_centres_decide_about_parts(avatar, body):
    """Gaussians that are moved to the hand belong to it, whatever vertex they follow; to either side of a border."""
    chest = in_parts(avatar, body, ("torso",))
    hand = body.v_template[body.lbs_weights[:, JOINT_NAMES.index("left_wrist")] > 0.99].mean(0)
    offsets = torch.where(chest[:, None], hand - body.v_template[avatar.vertex_ids], avatar.offsets)
    moved = replace(avatar, offsets=offsets)
    assert in_parts(moved, body, ("left_hand",))[chest].all() and not in_parts(moved, body, ("torso",)).any()
    # A line of points along the arm changes from arm to hand once.
    elbow = body.rest_joints(body.v_template)[JOINT_NAMES.index("left_elbow")]
    line = torch.lerp(elbow, hand, torch.linspace(0, 1, 200)[:, None])
    some = torch.zeros(avatar.count, dtype=torch.bool)
    some[:200] = True
    points = selected(avatar, some)
    points = replace(points, offsets=line - body.v_template[points.vertex_ids])
    steps = in_parts(points, body, ("left_hand",)).int().diff()
    assert steps.sum() == 1 and steps.abs().sum() == 1


def test_selection_keeps_the_rest_unchanged(avatar, body):
    mask = in_parts(avatar, body, ("head",))
    head = selected(avatar, mask)
    assert head.count == int(mask.sum()) and torch.equal(head.colors, avatar.colors[mask])
    with pytest.raises(InputError, match="no Gaussian"):
        selected(head, torch.zeros(head.count, dtype=torch.bool))


def test_recolouring_changes_the_mean_and_keeps_contrast(avatar, body):
    mask = in_parts(avatar, body, ("torso",))
    dim = replace(avatar, colors=0.3 * avatar.colors)
    blue = recolored(dim, mask, torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(blue.colors[~mask], dim.colors[~mask])
    weights = dim.opacities[mask, None]
    mean = (weights * blue.colors[mask]).sum(0) / weights.sum()
    torch.testing.assert_close(mean, torch.tensor([0.1, 0.2, 0.3]), atol=1e-3, rtol=0)
    before, after = dim.colors[mask].mean(-1), blue.colors[mask].mean(-1)
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.999
    torch.testing.assert_close(recolored(dim, mask, torch.ones(3), 0.0).colors, dim.colors)


def test_pruning_keeps_the_largest_weights(avatar):
    weights = torch.linspace(1, 0, avatar.count)
    small = pruned(avatar, 1000, weights)
    assert small.count == 1000 and torch.equal(small.vertex_ids, avatar.vertex_ids[:1000])
    assert pruned(avatar, 10**9, weights) is avatar


def test_weights_are_those_of_renderings(avatar, body):
    """They sum to the alpha of the renderings; Gaussians inside the body, though larger, have almost none."""
    inside = in_parts(avatar, body, ("torso",)) & (avatar.vertex_ids % 4 == 0)
    vertices = body.v_template[avatar.vertex_ids]
    axis = vertices[inside] * torch.tensor([0.0, 1.0, 0.0])
    offsets, scales = avatar.offsets.clone(), avatar.scales.clone()
    offsets[inside] = axis - vertices[inside]
    scales[inside] *= 1.5
    filled = replace(avatar, offsets=offsets, scales=scales, opacities=torch.full((avatar.count,), 0.99))
    poses = apply_motion(builtin_motion("idle", body), body, avatar.betas)[:1]
    cameras = turntable(body(poses).vertices, 4, 96)[None]
    weights = rendered_weights(filled, body, poses, cameras)
    alphas = render_avatar(filled, body, poses, cameras, backend="numba").alphas
    assert weights.sum().item() == pytest.approx(alphas.sum().item(), rel=1e-3)
    assert weights[inside].median() < 0.1 * weights[~inside].mean()  # a few at neck and hips reach the surface


def test_merging_is_an_average_that_opacity_weights(avatar):
    torch.testing.assert_close(merged([avatar]).colors, avatar.colors)
    other = replace(avatar, colors=1 - avatar.colors, quats=-avatar.quats)
    both = merged([avatar, other])
    torch.testing.assert_close(both.colors, torch.full_like(both.colors, 0.5))
    torch.testing.assert_close(both.quats, torch.nn.functional.normalize(avatar.quats, dim=-1))
    unseen = replace(other, opacities=0 * other.opacities)
    assert (merged([avatar, unseen]).colors - avatar.colors).abs().max() < 1e-3
    with pytest.raises(InputError, match="same checkpoint"):
        merged([avatar, selected(avatar, avatar.vertex_ids > 5)])


@pytest.mark.slow
def test_script(avatar, body, tmp_path):
    source, out = tmp_path / "avatar.safetensors", tmp_path / "edited.safetensors"
    save_avatar(source, avatar, torch.full((body.num_vertices,), 200, dtype=torch.uint8))
    main((source, source), out, hide=("head",), recolor=(("legs", "#ff0000"),), prune=4000)
    edited = load_avatar(out)
    assert (load_views_seen(out, body.num_vertices) == 255).all()
    assert edited.count == 4000 and not in_parts(edited, body, ("head",)).any()
    legs = edited.colors[in_parts(edited, body, ("legs",))]
    assert legs[:, 0].mean() > 0.7 and legs[:, 1:].max() < 0.01
    assert psnr(avatar, avatar, body) > 100 > psnr(avatar, edited, body)
    arguments = [str(source), "--out", str(out), "--recolor", "legs+feet", "#00ff00", "--recolor", "head", "#0000ff"]
    tyro.cli(main, args=arguments)
    edited = load_avatar(out)
    for parts, channel in ((("legs", "feet"), 1), (("head",), 2)):
        colors = edited.colors[in_parts(edited, body, parts)]
        assert colors[:, channel].mean() > 0.7 and colors.mean(0).argmax() == channel
    with pytest.raises(InputError, match="#rrggbb"):
        main((source,), out, recolor=(("legs", "red"),))
