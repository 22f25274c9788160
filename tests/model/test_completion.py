"""Completion of colours: what is kept, and what is taken from where."""

from dataclasses import replace

import pytest
import torch
from model_rig import ring_cameras
from remeshed_body import remeshed
from scipy.spatial import KDTree

from core.avatar.avatar import TENSOR_FIELDS, Avatar
from core.model import completion
from core.model.body_regions import FACE, HAIR, REGIONS, find_regions
from core.model.completion import Support, complete_colors, fill_colors, find_support
from core.model.surface import place_queries
from core.types.cameras import Cameras
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyParams


def avatar_of(body: BodyModel, colors: torch.Tensor) -> Avatar:
    """One opaque Gaussian per vertex, on the surface."""
    start = place_queries(body, 1)
    return Avatar(
        offsets=start.offsets,
        quats=start.quats,
        scales=start.scales,
        opacities=torch.full((body.num_vertices,), 0.9),
        colors=colors,
        vertex_ids=torch.arange(body.num_vertices),
        betas=torch.zeros(10),
        body=body.fingerprint,
    )


def support(seen: torch.Tensor) -> Support:
    return Support(seen.float(), 10 * seen.float())


def bands(body: BodyModel) -> torch.Tensor:
    """Colours [V, 3] that change along the body and are equal on both sides, at front and back."""
    x, y, _ = body.v_template.unbind(-1)
    return torch.stack([0.5 + 0.4 * torch.sin(4 * y), 0.5 + 0.4 * torch.sin(4 * x.abs()), torch.full_like(y, 0.3)], -1)


@pytest.fixture(scope="module")
def front_view(body) -> Frames:
    """The body from the front, grey."""
    params = BodyParams.zeros(1)
    params = replace(params, transl=-body(params).joints[:, 0])
    cameras = ring_cameras(1, 128)
    cameras = Cameras(cameras.viewmats[None], cameras.Ks[None], 128, 128)
    return Frames(torch.full((1, 1, 3, 128, 128), 0.5), torch.ones(1, 1, 1, 128, 128), cameras, params)


def test_regions_are_symmetric_and_do_not_depend_on_the_mesh(body):
    ids = find_regions(body).ids
    assert (torch.bincount(ids, minlength=len(REGIONS)) > 50).all()
    mirror = KDTree(body.v_template.numpy()).query(body.v_template.numpy() * [-1, 1, 1])[1]
    assert (ids[mirror] == ids).float().mean() > 0.98
    other, order = remeshed(body)
    assert (find_regions(other).ids == ids[order]).float().mean() > 0.99


@pytest.mark.parametrize("side", [0, 2], ids=["left from right", "back from front"])
def test_colors_that_are_equal_on_both_sides_are_restored(body, side):
    truth = bands(body)
    seen = body.v_template[:, side] > (0.0 if side == 0 else 0.05)
    avatar = avatar_of(body, torch.where(seen[:, None], truth, torch.tensor(0.5)))
    completed = fill_colors(avatar, body, support(seen))
    regions = find_regions(body).ids
    judged = ~seen & (regions < HAIR)  # the face keeps its colours
    before, after = ((x.colors - truth).abs()[judged].mean() for x in (avatar, completed))
    assert after < 0.35 * before, (before, after)


@pytest.mark.parametrize("seen_of_it", [1, -1], ids=["one seen", "one unseen"])
def test_one_gaussian_of_a_region_is_enough(body, seen_of_it):
    arms = (find_regions(body).ids == REGIONS.index("arms")).nonzero()[:, 0]
    seen = torch.ones(body.num_vertices)
    seen[arms[1:] if seen_of_it == 1 else arms[:1]] = 0
    avatar = avatar_of(body, torch.where((seen > 0)[:, None], bands(body), torch.tensor(0.5)))
    completed = fill_colors(avatar, body, support(seen))
    assert torch.equal((completed.colors != avatar.colors).any(-1), seen == 0)


def test_seen_gaussians_and_all_but_colors_are_kept_bitwise(body):
    generator = torch.Generator().manual_seed(0)
    avatar = avatar_of(body, torch.rand(body.num_vertices, 3, generator=generator))
    evidence = support(torch.rand(body.num_vertices, generator=generator))
    completed = fill_colors(avatar, body, evidence)
    kept = evidence.unseen() == 0
    assert torch.equal(completed.colors[kept], avatar.colors[kept])
    assert (completed.colors != avatar.colors)[~kept].float().mean() > 0.5
    assert all(torch.equal(getattr(completed, n), getattr(avatar, n)) for n in TENSOR_FIELDS if n != "colors")


@pytest.mark.parametrize("seen", [0.0, 1.0], ids=["nothing", "everything"])
def test_an_avatar_of_which_nothing_or_everything_is_seen_is_unchanged(body, seen):
    avatar = avatar_of(body, bands(body))
    assert fill_colors(avatar, body, support(torch.full((body.num_vertices,), seen))) is avatar


@pytest.mark.parametrize("share, is_completed", [(0.02, False), (0.05, True)])
def test_avatars_that_are_seen_from_all_around_are_unchanged(body, make_frames, monkeypatch, share, is_completed):
    avatar = avatar_of(body, bands(body))
    seen = torch.rand(body.num_vertices, generator=torch.Generator().manual_seed(0)) > share
    monkeypatch.setattr(completion, "find_support", lambda *_: support(seen))
    completed = completion.complete_colors(avatar, body, make_frames()[0])
    assert (completed is not avatar) == is_completed


@pytest.mark.parametrize("is_bald", [False, True])
def test_the_back_of_the_head_is_hair_and_not_face(body, is_bald):
    """Half of it is that of the hair; where only skin is seen, the guess stays."""
    regions = find_regions(body)
    hair, skin, guess = torch.tensor([[0.1, 0.1, 0.6], [0.9, 0.6, 0.5], [0.5, 0.5, 0.5]])
    truth = torch.where((regions.ids == HAIR)[:, None], skin if is_bald else hair, skin)
    seen = body.v_template[:, 2] > body.v_template[regions.ids == FACE, 2].mean()
    seen |= (regions.ids == HAIR) & (regions.above_hairline > 0.1) & (body.v_template[:, 2] > 0.1)
    completed = fill_colors(avatar_of(body, torch.where(seen[:, None], truth, guess)), body, support(seen))
    behind = (regions.ids == HAIR) & ~seen
    assert behind.sum() > 50
    expected = guess if is_bald else (hair + guess) / 2
    assert (completed.colors[behind] - expected).norm(dim=-1).max() < 0.05


def test_the_axis_of_the_torso_is_its_own_mirror_image(body):
    axis = find_regions(body).axes[REGIONS.index("torso")]
    assert axis[0].abs() < 1e-3, axis
    assert axis[1] > 0.95, axis


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_the_front_supports_the_front(body, front_view, backend):
    """Backends with and without weights of their own agree: the chest is seen, the back is not."""
    evidence = find_support(avatar_of(body, bands(body)), body, front_view, backend)
    trunk = find_regions(body).ids == REGIONS.index("torso")
    facing = place_queries(body, 1).axes[:, 2, 2]
    assert evidence.unseen()[trunk & (facing > 0.7)].mean() < 0.05
    assert evidence.unseen()[trunk & (facing < -0.7)].mean() > 0.95


def test_one_image_colors_the_back(body, front_view):
    avatar = avatar_of(body, bands(body))
    facing = place_queries(body, 1).axes[:, 2, 2]
    back = (facing < -0.5) & (find_regions(body).ids < HAIR)
    spoiled = replace(avatar, colors=torch.where(back[:, None], torch.tensor(1.0), avatar.colors))
    completed = complete_colors(spoiled, body, front_view)
    before, after = ((x.colors - avatar.colors).abs()[back].mean() for x in (spoiled, completed))
    assert after < 0.4 * before, (before, after)
