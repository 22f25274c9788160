"""Avatars: skinning, rendering, and their files."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from core.avatar import avatar as skinning
from core.avatar.avatar import (
    Avatar,
    at_vertices,
    canonical_gaussians,
    pose_avatar,
    skin_gaussians,
    skin_gaussians_reference,
)
from core.avatar.file import find_avatar_body, load_avatar, load_views_seen, save_avatar
from core.avatar.rendering import render_avatar, supersampling
from core.types.cameras import Cameras, look_at
from smpl_renderer import body_model, posing_kernel, rotations
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle, quat_to_matrix
from smpl_renderer.types import BodyParams

COUNT = 300


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def avatars(body) -> Avatar:
    """Two avatars of 300 Gaussians."""
    return Avatar(
        offsets=0.02 * random(2, COUNT, 3),
        quats=normalize(random(2, COUNT, 4, seed=1), dim=-1),
        scales=0.02 * torch.exp(0.5 * random(2, COUNT, 3, seed=2)),
        opacities=torch.sigmoid(random(2, COUNT, seed=3)),
        colors=torch.sigmoid(random(2, COUNT, 3, seed=4)),
        vertex_ids=torch.randint(0, body.num_vertices, (2, COUNT), generator=torch.Generator().manual_seed(5)),
        betas=random(2, 10, seed=6),
        body=body.fingerprint,
    )


@pytest.fixture(scope="module")
def params(avatars) -> BodyParams:
    """Three poses of each."""
    return BodyParams(
        betas=avatars.betas[:, None].expand(2, 3, 10),
        global_orient=0.5 * random(2, 3, 3, seed=7),
        body_pose=0.3 * random(2, 3, 69, seed=8),
        transl=0.2 * random(2, 3, 3, seed=9),
        scale=1 + 0.1 * torch.rand(2, 3, generator=torch.Generator().manual_seed(10)),
    )


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    """Two cameras for each pose."""
    eyes = torch.tensor([[0.0, 0.2, 3.0], [2.5, 0.5, 1.5]])
    viewmats = look_at(eyes, torch.zeros(2, 3), torch.tensor([0.0, 1.0, 0.0]))
    Ks = torch.tensor([[36.0, 0.0, 16.0], [0.0, 36.0, 16.0], [0.0, 0.0, 1.0]])
    return Cameras(viewmats.expand(2, 3, 2, 4, 4), Ks.expand(2, 3, 2, 3, 3), 32, 32)


@pytest.fixture(params=["reference", "kernels"])
def posing(request, monkeypatch):
    """Pose avatars by the references or by the kernels, which run in Triton's interpreter on a CPU."""

    def can_use_kernels(*inputs, constants=()) -> bool:
        return request.param == "kernels" and not any(x.requires_grad for x in constants)

    for module in (body_model, rotations, skinning):
        monkeypatch.setattr(module, "can_use_kernels", can_use_kernels)
    monkeypatch.setattr(posing_kernel, "BLOCK", 2048)  # fewer programs to interpret


@pytest.mark.slow
def test_gaussians_without_offset_lie_on_their_vertices(body, avatars, params, posing):
    posed = pose_avatar(replace(avatars, offsets=torch.zeros_like(avatars.offsets)), body, params)
    expected = at_vertices(body(params).vertices, avatars.vertex_ids[:, None])
    torch.testing.assert_close(posed.means, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_sizes_follow_the_scale_of_the_body_only(body, avatars, params, posing):
    posed = pose_avatar(avatars, body, params)
    torch.testing.assert_close(posed.scales, avatars.scales[:, None] * params.scale[..., None, None])
    torch.testing.assert_close(posed.opacities[:, 1], avatars.opacities)
    torch.testing.assert_close(posed.colors[:, 2], avatars.colors)


def test_rest_pose_gives_the_canonical_gaussians(body, avatars, posing):
    rest = BodyParams.zeros(2, 1)
    rest = replace(rest, betas=avatars.betas[:, None])
    posed, canonical = pose_avatar(avatars, body, rest)[:, 0], canonical_gaussians(avatars, body)
    torch.testing.assert_close(posed.means, canonical.means, rtol=0, atol=1e-5)
    torch.testing.assert_close(quat_to_matrix(posed.quats), quat_to_matrix(canonical.quats), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_gaussians_rotate_with_the_body(body, avatars, params, posing):
    """Rotating the world by R applies R to means and local axes."""
    rotation, moved = rigidly_moved(body, params)
    before, after = pose_avatar(avatars, body, params), pose_avatar(avatars, body, moved)
    torch.testing.assert_close(after.means, before.means @ rotation.T + SHIFT, rtol=0, atol=1e-5)
    torch.testing.assert_close(quat_to_matrix(after.quats), rotation @ quat_to_matrix(before.quats), rtol=0, atol=1e-4)


SHIFT = torch.tensor([0.3, -0.1, 0.2])


def rigidly_moved(body, params: BodyParams) -> tuple[torch.Tensor, BodyParams]:
    """A rotation, and the same bodies in a world that is rotated by it about the origin and then shifted."""
    rotation = axis_angle_to_matrix(torch.tensor([0.4, -0.9, 0.7]))
    orient = matrix_to_axis_angle(rotation @ axis_angle_to_matrix(params.global_orient))
    # The root rotates about the rest pelvis, not about the origin.
    pelvis = params.scale[..., None] * body.rest_joints(body.shape_vertices(params.betas))[..., 0, :]
    transl = (params.transl + pelvis) @ rotation.T - pelvis + SHIFT
    return rotation, replace(params, global_orient=orient, transl=transl)


def test_moving_world_and_cameras_together_changes_no_pixel(body, avatars, params, cameras):
    rotation, moved = rigidly_moved(body, params)
    T_world_moved = torch.eye(4)  # the inverse of the move
    T_world_moved[:3, :3], T_world_moved[:3, 3] = rotation.T, -rotation.T @ SHIFT
    before = render_avatar(avatars, body, params, cameras)
    after = render_avatar(avatars, body, moved, cameras.in_frame(T_world_moved))
    assert before.colors.shape == (2, 3, 2, 3, 32, 32)
    assert before.alphas.amax() > 0.5
    # The order may change where two Gaussians are equally deep; the rest is rounding in float32.
    torch.testing.assert_close(after.colors, before.colors, rtol=0, atol=1e-3)


def test_the_order_of_gaussians_changes_no_pixel(body, avatars, params, cameras):
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        avatars,
        **{
            name: getattr(avatars, name)[:, order]
            for name in ("offsets", "quats", "scales", "opacities", "colors", "vertex_ids")
        },
    )
    before, after = (render_avatar(a, body, params, cameras) for a in (avatars, shuffled))
    torch.testing.assert_close(after.colors, before.colors, rtol=0, atol=1e-5)


def test_background_is_weighted_by_transparency(body, avatars, params, cameras):
    black = render_avatar(avatars, body, params, cameras, background=0.0)
    white = render_avatar(avatars, body, params, cameras)
    torch.testing.assert_close(white.colors - black.colors, (1 - white.alphas).expand_as(white.colors))


def test_supersampled_images_are_means_over_blocks(body, avatars, params, cameras):
    """Blocks of 3 x 3 pixels of an image from the same cameras; images need not be square."""
    wide = Cameras(cameras.viewmats, cameras.Ks, 32, 24)
    Ks = cameras.Ks * torch.tensor([3.0, 3.0, 1.0])[:, None]
    large = render_avatar(avatars, body, params, Cameras(cameras.viewmats, Ks, 96, 72), background=0.3)
    small = render_avatar(avatars, body, params, wide, background=0.3, supersample=3)
    for fine, mean in ((large.colors, small.colors), (large.alphas, small.alphas)):
        assert mean.shape == (*fine.shape[:-2], 24, 32)
        blocks = fine.unflatten(-1, (32, 3)).unflatten(-3, (24, 3))
        torch.testing.assert_close(mean, blocks.mean((-3, -1)))


def test_supersampling_reduces_the_dilation_of_small_splats(body, avatars, params, cameras):
    fine = replace(avatars, scales=0.2 * avatars.scales)  # 4 mm, a twentieth of a pixel
    covered = [render_avatar(fine, body, params, cameras, supersample=k).alphas.sum().item() for k in (1, 2, 4)]
    assert covered[0] > 1.5 * covered[1] > 2 * covered[2] > 0


@pytest.mark.parametrize(
    ("size", "trained_size", "factor"),
    [(512, 512, 1), (1024, 512, 1), (300, 512, 2), (256, 512, 2), (255, 512, 3), (256, 256, 1), (16, None, 1)],
)
def test_images_are_rendered_no_smaller_than_in_training(size, trained_size, factor):
    assert supersampling(size, trained_size) == factor


@pytest.mark.slow
def test_subjects_of_a_batch_are_independent(body, avatars, params, posing):
    both = pose_avatar(avatars, body, params)
    alone = pose_avatar(avatars[1], body, params[1])
    torch.testing.assert_close(alone.means, both.means[1])
    torch.testing.assert_close(alone.quats, both.quats[1])


NAMES = ("offsets", "quats", "scales", "opacities", "colors")


def values_and_gradients(skin_gaussians, avatars: Avatar, posed) -> list[torch.Tensor]:
    """The Gaussians' attributes, and the gradients of their product with random cotangents."""
    own = {name: getattr(avatars, name).detach().clone().requires_grad_() for name in NAMES}
    gaussians = skin_gaussians(replace(avatars, **own), posed)
    values = list(vars(gaussians).values())
    cotangents = [random(*x.shape, seed=i).to(x) for i, x in enumerate(values)]
    return [*values, *torch.autograd.grad(values, list(own.values()), cotangents)]


@pytest.mark.slow
@pytest.mark.parametrize("posing", ["kernels"], indirect=True)
def test_skinning_kernels_match_reference(body, avatars, params, posing):
    posed = body.pose(params)
    actual, expected = (values_and_gradients(f, avatars, posed) for f in (skin_gaussians, skin_gaussians_reference))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=3e-6)  # about a metre in float32, and sums over three poses
    single = [skin_gaussians(avatars[0], posed[0, 1:2]).means[0], skin_gaussians(avatars[0], posed[0]).means[1]]
    torch.testing.assert_close(*single, rtol=0, atol=0)


@pytest.mark.parametrize("posing", ["kernels"], indirect=True)
def test_poses_that_require_gradients_run_the_reference(body, avatars, params, posing):
    moved = replace(params, body_pose=params.body_pose.clone().requires_grad_())
    pose_avatar(avatars, body, moved).means.square().sum().backward()
    assert moved.body_pose.grad.isfinite().all() and moved.body_pose.grad.abs().max() > 0


@pytest.mark.gpu
def test_skinning_on_a_gpu_matches_the_reference_and_repeats(body, avatars, params):
    posed = copy.deepcopy(body).double().pose(params.to(torch.double))
    expected = values_and_gradients(
        skin_gaussians_reference, avatars.map(lambda x: x.double() if x.is_floating_point() else x), posed
    )
    on_gpu = copy.deepcopy(body).cuda().pose(params.to("cuda"))
    for a, e in zip(values_and_gradients(skin_gaussians, avatars.to("cuda"), on_gpu), expected, strict=True):
        torch.testing.assert_close(a.cpu().double(), e, rtol=1e-4, atol=1e-5)
    twice = [values_and_gradients(skin_gaussians, avatars.to("cuda"), on_gpu) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*twice))


def test_file_round_trip(tmp_path, avatars):
    path = tmp_path / "deep" / "avatar.safetensors"
    save_avatar(path, avatars[0])
    read = load_avatar(path)
    assert read.body == avatars.body
    for name in ("offsets", "quats", "scales", "opacities", "colors", "vertex_ids", "betas"):
        assert torch.equal(getattr(read, name), getattr(avatars, name)[0]), name
    assert [p.name for p in path.parent.iterdir()] == ["avatar.safetensors"]


def test_expanded_tensors_can_be_written(tmp_path, avatars):
    ids = torch.arange(COUNT).expand(2, -1)
    save_avatar(tmp_path / "a.safetensors", replace(avatars, vertex_ids=ids))
    assert torch.equal(load_avatar(tmp_path / "a.safetensors").vertex_ids, ids)


def test_other_files_are_refused_by_name_in_one_line(tmp_path, avatars):
    missing, garbage, foreign, future = (tmp_path / f"{name}.safetensors" for name in ("no", "garbage", "ply", "new"))
    garbage.write_bytes(b"ply\n" * 100)
    save_file({"x": torch.zeros(1)}, foreign)
    save_avatar(future, avatars)
    tensors = {name: getattr(avatars, name).contiguous() for name in vars(avatars) if name != "body"}
    save_file(tensors, future, {"format": "hgg-avatar", "version": "99", "body": avatars.body})
    for path in (missing, garbage, foreign, future, tmp_path):
        with pytest.raises(InputError) as error:
            load_avatar(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_another_body_is_refused_by_fingerprint(body, avatars, params):
    with pytest.raises(InputError, match=body.fingerprint):
        pose_avatar(replace(avatars, body="0123456789abcdef"), body, params)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda x: x * float("nan")),
        ("offsets", lambda x: x[:, :-1]),
        ("offsets", lambda x: x + 1e30),
        ("quats", lambda x: x[..., :3]),
        ("quats", lambda x: 0 * x),
        ("scales", lambda x: -x.abs() - 1),
        ("scales", lambda x: x + float("inf")),
        ("opacities", lambda x: x + 2),
        ("opacities", lambda x: x.long()),
        ("colors", lambda x: x[..., None]),
        ("colors", lambda x: x * 1e20),
        ("vertex_ids", lambda x: x - 10**6),
        ("vertex_ids", lambda x: x + 2**40),
        ("vertex_ids", lambda x: x.float()),
        ("betas", lambda x: x + 1e9),
        ("betas", lambda x: x[:1]),
    ],
)
def test_tampered_files_are_refused(avatars, tmp_path, name, change):
    path = tmp_path / "avatar.safetensors"
    save_avatar(path, avatars)
    load_avatar(path)
    tensors = load_file(path)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, path, {"format": "hgg-avatar", "version": "1", "body": avatars.body})
    with pytest.raises(InputError, match=r"avatar\.safetensors: holds no avatar"):
        load_avatar(path)


def test_files_hold_the_number_of_images_that_show_each_vertex(avatars, tmp_path):
    path = tmp_path / "avatar.safetensors"
    save_avatar(path, avatars[0])
    assert load_views_seen(path, 4) is None
    seen = torch.tensor([0, 3, 255, 1], dtype=torch.uint8)
    save_avatar(path, avatars[0], seen)
    assert torch.equal(load_views_seen(path, 4), seen) and torch.equal(load_avatar(path).colors, avatars[0].colors)
    with pytest.raises(InputError, match="5 bytes"):
        load_views_seen(path, 5)
    save_avatar(path, avatars[0], seen.float())
    with pytest.raises(InputError, match=r"torch\.float32"):
        load_views_seen(path, 4)


def test_avatars_that_refer_to_other_bodies_are_refused(avatars, body):
    assert find_avatar_body(avatars[0]).fingerprint == body.fingerprint
    beyond = replace(avatars[0], vertex_ids=avatars[0].vertex_ids + body.num_vertices)
    for avatar in (beyond, replace(avatars[0], betas=torch.zeros(body.num_betas + 1))):
        with pytest.raises(InputError, match="the avatar has Gaussians at vertex"):
            find_avatar_body(avatar)
