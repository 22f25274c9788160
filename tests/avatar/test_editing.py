"""Edits of avatars, and scripts/edit.py."""

from dataclasses import replace

import pytest
import torch

from core.avatar.editing import PARTS, PLURALS, in_parts, merged, pruned, recolored, selected
from core.avatar.file import load_avatar, save_avatar
from scripts.edit import main, psnr
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


def test_pruning_keeps_the_largest(avatar):
    scales = avatar.scales * torch.linspace(0.5, 2, avatar.count)[:, None]
    small = pruned(replace(avatar, scales=scales, opacities=torch.ones(avatar.count)), 1000)
    assert small.count == 1000 and (small.vertex_ids.diff() > 0).all()
    assert small.scales.prod(-1).min() > scales.prod(-1).median()
    assert pruned(avatar, 10**9) is avatar


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


def test_script(avatar, body, tmp_path):
    source, out = tmp_path / "avatar.safetensors", tmp_path / "edited.safetensors"
    save_avatar(source, avatar)
    main((source, source), out, hide=("head",), recolor=(("legs", "#ff0000"),), prune=4000)
    edited = load_avatar(out)
    assert edited.count == 4000 and not in_parts(edited, body, ("head",)).any()
    legs = edited.colors[in_parts(edited, body, ("legs",))]
    assert legs[:, 0].mean() > 0.7 and legs[:, 1:].max() < 0.01
    assert psnr(avatar, avatar, body) > 100 > psnr(avatar, edited, body)
    with pytest.raises(InputError, match="#rrggbb"):
        main((source,), out, recolor=(("legs", "red"),))
