"""Refinement of avatars on images: what improves, what is kept, and independence of the caller's modes."""

import copy
from dataclasses import replace

import pytest
import torch
from striped_avatar import SIZE, render_frames, striped_avatar

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_avatar
from core.inference.refinement import Rates, RefineOptions, Refiner, image_order
from core.losses.metrics import psnr
from core.model.heads import MAX_OFFSET
from core.types.cameras import Cameras
from core.types.frames import Frames

OPTIONS = RefineOptions(steps=10, images=2)


def refine(avatar: Avatar, inputs: Frames, body, options: RefineOptions = OPTIONS, supersample: int = 1) -> Avatar:
    return Refiner(body, options, "torch", supersample)(avatar, inputs)


@pytest.fixture(scope="module")
def truth(body) -> Avatar:
    return striped_avatar(body)


@pytest.fixture(scope="module")
def inputs(truth, body) -> Frames:
    return render_frames(truth, body, 2, [0.0, 180.0])


@pytest.fixture(scope="module")
def novel(truth, body) -> Frames:
    return render_frames(truth, body, 3, [50.0])[2:]


@pytest.fixture(scope="module")
def wrong(truth) -> Avatar:
    """Too dark and too large."""
    return replace(truth, colors=0.7 * truth.colors, scales=1.3 * truth.scales)


@pytest.fixture(scope="module")
def refined(wrong, inputs, body) -> Avatar:
    return refine(wrong, inputs, body)


def quality(avatar: Avatar, body, target: Frames) -> float:
    colors = render_avatar(avatar, body, target.body, target.cameras, backend="torch").colors
    return psnr(colors, target.images).mean().item()


def same(a: Avatar, b: Avatar, mask=slice(None)) -> bool:
    """Bitwise equality inside the mask."""
    return all(
        getattr(a, name)[mask].equal(getattr(b, name)[mask])
        for name in ("offsets", "quats", "scales", "opacities", "colors")
    )


def test_inputs_and_novel_views_and_poses_improve(wrong, refined, inputs, novel, body):
    assert quality(refined, body, inputs) > quality(wrong, body, inputs) + 3
    assert quality(refined, body, novel) > quality(wrong, body, novel) + 2
    assert not any(x.requires_grad for x in vars(refined).values() if isinstance(x, torch.Tensor))


def test_a_correct_avatar_is_kept(truth, inputs, body):
    """Each image is compared in the pose of its own frame."""
    assert (
        quality(refine(truth, inputs, body), body, inputs) > 50
    )  # Gaussians that are hardly visible follow rounding errors


def test_packed_inputs_are_unpacked(wrong, inputs, body):
    packed = replace(inputs, images=(255 * inputs.images).byte(), alphas=(255 * inputs.alphas).byte())
    options = replace(OPTIONS, steps=2)
    one, other = (refine(wrong, x, body, options) for x in (packed, packed.unpack()))
    assert same(one, other) and not same(one, wrong)


def test_gaussians_outside_all_images_are_kept_bitwise(wrong, inputs, body):
    """Far to the side of all images; white, whose logit is out of bounds."""
    hidden = torch.zeros(wrong.count, dtype=torch.bool)
    hidden[::10] = True
    far = torch.where(hidden[:, None], torch.tensor([0.45, 0.0, 0.0]), wrong.offsets)
    start = replace(wrong, offsets=far, colors=torch.where(hidden[:, None], 1.0, wrong.colors))
    near = Cameras(inputs.cameras.viewmats, inputs.cameras.Ks, 28, SIZE)  # the left part of the images
    own = replace(inputs, images=inputs.images[..., :28], alphas=inputs.alphas[..., :28], cameras=near)
    own = replace(own, **{name: getattr(own, name)[:, :1] for name in ("images", "alphas")}).select_views([0])
    best = refine(start, own, body)
    unseen = hidden & (body.v_template[wrong.vertex_ids][:, 0] > 0)
    assert unseen.sum() > 50
    assert same(best, start, unseen) and not same(best, start, ~hidden)


def test_transparent_gaussians_stay_transparent(wrong, inputs, body):
    clear = torch.arange(wrong.count) % 7 == 0
    start = replace(wrong, opacities=wrong.opacities.masked_fill(clear, 0))
    best = refine(start, inputs, body)
    assert same(best, start, clear) and bool((best.opacities[~clear] > 0).all())


@pytest.mark.slow
def test_results_repeat_and_do_not_depend_on_the_batch(wrong, refined, inputs, novel, body):
    """Twice, with another seed, and in a batch with another subject."""
    assert same(refine(wrong, inputs, body), refined)
    other = refine(wrong, inputs, body, replace(OPTIONS, seed=1))
    assert not same(other, refined)
    dark = replace(inputs, images=0.5 * inputs.images)
    both = wrong[None].map(lambda x: x.expand(2, *x.shape[1:])), Frames.stack([inputs, dark])
    first, second = (refine(*both, body)[i] for i in range(2))
    torch.testing.assert_close(first.colors, refined.colors, rtol=0, atol=2e-3)  # sums in another order
    assert (second.colors - first.colors).abs().mean() > 0.02


def test_the_modes_of_the_caller_do_not_matter(wrong, refined, inputs, body):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert same(refine(wrong, inputs, body), refined)


def test_it_works_in_inference_mode(wrong, inputs, body):
    options = replace(OPTIONS, steps=2)
    expected = refine(wrong, inputs, body, options)
    with torch.inference_mode():
        own, copied = wrong.map(lambda x: x * 1), inputs.map(lambda x: x * 1)
        assert same(refine(own, copied, body, options), expected)


def test_a_view_with_an_empty_mask_is_ignored(wrong, inputs, body):
    """It does not make the avatar white or transparent."""
    blind = replace(inputs, images=torch.ones_like(inputs.images), alphas=torch.zeros_like(inputs.alphas))
    assert same(refine(wrong, blind, body, replace(OPTIONS, steps=2)), wrong)


def test_only_a_rasterizer_that_never_waits_is_recorded(wrong, inputs, body, monkeypatch):
    """A stand-in for a GPU."""
    refiner = Refiner(body, replace(OPTIONS, steps=1), "torch")
    monkeypatch.setattr(refiner.graph_cache, "can_capture", lambda _: True)
    monkeypatch.setattr(type(refiner.graph_cache), "__call__", lambda *_: pytest.fail("a recording of backend torch"))
    assert not same(refiner(wrong, inputs), wrong)


def test_no_gradient_leaves(wrong, inputs, body):
    """The numbers may belong to a network, and the fits to somebody who optimises them."""
    parameter = torch.zeros(3, requires_grad=True)
    transl = inputs.body.transl.clone().requires_grad_()
    own = replace(inputs, body=replace(inputs.body, transl=transl))
    best = refine(replace(wrong, colors=wrong.colors + parameter), own, body)
    assert parameter.grad is None and transl.grad is None and best.colors.grad_fn is None


def test_the_prior_holds_back(wrong, refined, inputs, body):
    held = refine(wrong, inputs, body, replace(OPTIONS, prior=1.0))
    moves = [(x.scales.log() - wrong.scales.log()).abs().mean() for x in (held, refined)]
    assert moves[0] < 0.3 * moves[1]


def test_rates_select_what_changes(wrong, inputs, body):
    rates = Rates(colors=0, opacities=0, scales=0.03, offsets=0.001, quats=0.01)
    best = refine(wrong, inputs, body, replace(OPTIONS, steps=2, rates=rates))
    for name in ("offsets", "quats", "scales"):
        assert not getattr(best, name).equal(getattr(wrong, name))
    for name in ("opacities", "colors"):  # only rounded
        torch.testing.assert_close(getattr(best, name), getattr(wrong, name))
    start = replace(wrong, offsets=wrong.offsets.clone())
    start.offsets[0] = torch.tensor([0.0, 0.0, 0.4])
    far = replace(OPTIONS, steps=3, rates=replace(rates, offsets=1.0))
    assert refine(start, inputs, body, far).offsets.norm(dim=-1).max() <= MAX_OFFSET + 1e-6


def test_no_steps_or_rates_keep_the_avatar(wrong, inputs, body):
    assert same(refine(wrong, inputs, body, replace(OPTIONS, steps=0)), wrong)
    no_rates = Rates(colors=0, opacities=0, scales=0, offsets=0, quats=0)
    assert same(refine(wrong, inputs, body, replace(OPTIONS, rates=no_rates)), wrong)


def test_small_images_are_compared_with_supersampled_renderings(truth, inputs, body):
    """Supersampled like the targets, the true avatar is not made thinner."""
    own = inputs.cameras.resized(2 * SIZE, 2 * SIZE)
    rendering = render_avatar(truth, body, inputs.body, inputs.cameras, backend="torch", supersample=2)
    assert own.width == 2 * rendering.colors.shape[-1]
    targets = replace(inputs, images=rendering.colors, alphas=rendering.alphas)
    options = replace(OPTIONS, steps=4, rates=Rates(colors=0, opacities=0, offsets=0, quats=0))
    kept, thinner = (
        refine(truth, targets, body, options, supersample=times).scales.log().mean() - truth.scales.log().mean()
        for times in (2, 1)
    )
    assert thinner < -0.01 and abs(kept) < 0.3 * abs(thinner)


def test_every_image_occurs_once_per_round_and_steps_have_all_views():
    order = image_order(8, 4, RefineOptions(steps=16, images=4))
    assert order.shape == (16, 4)
    for half in order.split(8):
        assert half.flatten().sort().values.equal(torch.arange(32))
    assert (order % 4).equal(torch.arange(4).expand(16, 4))
    few = image_order(3, 1, RefineOptions(steps=2, images=4))
    assert few.sort().values.equal(torch.arange(3).expand(2, 3))


def test_inputs_of_other_subjects_are_refused(wrong, inputs, body):
    with pytest.raises(ValueError, match=r"inputs must be \[F, C\] for one avatar"):
        refine(wrong, inputs[None], body)


@pytest.mark.gpu
def test_replayed_steps_are_equal(wrong, refined, inputs, novel, body):
    own = copy.deepcopy(body).cuda()
    results = {}
    for enabled in (False, True):
        refiner = Refiner(own, OPTIONS)
        refiner.graph_cache.enabled = enabled
        for _ in range(2):  # the second time from the graph alone
            results[enabled] = refiner(wrong.to("cuda"), inputs.to("cuda")).to("cpu")
    # Sums in another order, over ten steps; hardly visible Gaussians follow rounding errors.
    assert (results[True].colors - results[False].colors).abs().mean() < 2e-3
    for avatar in results.values():
        assert abs(quality(avatar, body, novel) - quality(refined, body, novel)) < 0.2
