"""Kernels of posing and nearest rotations against references in float64; on a CPU in Triton's interpreter."""

import copy
import dataclasses
import math
from dataclasses import fields

import pytest
import torch
from random_bodies import random_params

pytest.importorskip("triton")

from smpl_renderer import posing_kernel, rotations
from smpl_renderer.body_model import BodyModel
from smpl_renderer.posing_tables import ancestor_table, influence_tables
from smpl_renderer.rotations import axis_angle_to_matrix, quat_to_matrix
from smpl_renderer.rotations_kernel import nearest_rotation_fused
from smpl_renderer.types import BodyOutput, BodyParams, PosedBody

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill new tensors with NaN, so that tests detect memory that a kernel does not write."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def pose_both(body, params: BodyParams) -> tuple[PosedBody, PosedBody]:
    """Pose by the kernels, and by the reference in float64."""
    actual = copy.deepcopy(body).to(DEVICE).pose_fused(params.to(DEVICE))
    return actual, copy.deepcopy(body).double().pose(params.to(torch.double))


def assert_same_bodies(actual: PosedBody, expected: PosedBody) -> None:
    # Float32 chains of up to nine products, of rotations and lengths of one or two metres. Nearest rotations have tests
    # of their own, because their error depends on the matrix.
    for field in fields(BodyOutput):
        value, other = getattr(expected, field.name), getattr(actual, field.name).cpu().double()
        torch.testing.assert_close(other, value, rtol=0, atol=3e-6, msg=field.name)
    torch.testing.assert_close(actual.scale.cpu().double(), expected.scale)


def singular_gap(matrices: torch.Tensor) -> torch.Tensor:
    """(s2 + s3) / s1 of the singular values, s3 < 0 for a reflection: the error is inversely proportional to it."""
    values, determinants = torch.linalg.svdvals(matrices.double()), torch.linalg.det(matrices.double())
    return (values[..., 1] + determinants.sign() * values[..., 2]) / values[..., 0]


def svd_rotation(matrices: torch.Tensor) -> torch.Tensor:
    left, _, right = torch.linalg.svd(matrices.double())
    flip = torch.ones(*matrices.shape[:-2], 3, dtype=torch.double)
    flip[..., 2] = torch.linalg.det(left @ right)
    return left @ (flip[..., None] * right)


@pytest.mark.parametrize("batch", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize("joints", [4, 9])
def test_kernels_match_reference(make_toy_arrays, batch, joints):
    body = BodyModel(make_toy_arrays(num_joints=joints), name="toy")
    actual, expected = pose_both(body, random_params(*batch, joints=joints))
    assert_same_bodies(actual, expected)
    # The matrices are blends of random rotations: errors are bounded relative to the gap that defines the rotation.
    gaps = singular_gap(expected.vertex_transforms[..., :3, :3])[..., None, None]
    errors = (actual.rotations.cpu() - expected.rotations).abs() * gaps
    assert errors.max() < 5e-6
    torch.testing.assert_close(quat_to_matrix(actual.quats), actual.rotations, rtol=0, atol=1e-6)
    assert (actual.quats[..., 0] >= 0).all()


@pytest.mark.parametrize("expanded", ["poses", "all"])
def test_poses_with_expanded_betas_share_rest_vertices(toy_body, expanded):
    params = random_params(2, 3, joints=4)
    own = params.betas[:1, :1] if expanded == "all" else params.betas[:, :1]
    params = dataclasses.replace(params, betas=own.expand(2, 3, 10))
    actual, expected = pose_both(toy_body, params)
    assert_same_bodies(actual, expected)
    assert actual.shaped.untyped_storage().nbytes() == 4 * 21 * (1 if expanded == "all" else 2)


def test_kernels_take_fewer_betas(toy_body):
    params = random_params(2, joints=4)
    assert_same_bodies(*pose_both(toy_body, dataclasses.replace(params, betas=params.betas[:, :4])))


@pytest.mark.slow
def test_kernels_match_reference_for_the_standin(body, monkeypatch):
    """A strong pose, a wrist twisted until blended matrices are nearly singular, and the rest pose."""
    monkeypatch.setattr(posing_kernel, "BLOCK", 1024)  # fewer programs to interpret
    params = random_params(3, joints=24)
    params.body_pose[1] = 0
    params.body_pose[1, 3 * 19] = 3.0
    params.body_pose[2], params.global_orient[2] = 0, 0
    actual, expected = pose_both(body, params)
    assert_same_bodies(actual, expected)
    assert torch.linalg.det(expected.vertex_transforms[1, :, :3, :3]).min() < 0.01
    errors = (actual.rotations.cpu() - expected.rotations).flatten(2).abs().amax(-1)
    assert errors.max() < 1e-5
    torch.testing.assert_close(actual.rotations[2].cpu(), torch.eye(3).expand(6890, 3, 3), rtol=0, atol=1e-6)


def special_matrices(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    left, right = quat_to_matrix(torch.randn(2, 200, 4, generator=generator))
    if kind == "random":
        return torch.randn(200, 3, 3, generator=generator)
    if kind == "half turns":
        axes = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=-1)
        return axis_angle_to_matrix(axes * (math.pi + 1e-3 * torch.randn(200, 1, generator=generator)))
    values = {
        "collapsed": (1.0, 0.07, 0.07),
        "flat": (1.0, 0.5, 0.0),
        "mirrored": (1.0, 0.6, -0.3),
        "large": (1e12, 8e11, 3e11),
        "small": (1e-12, 8e-13, 3e-13),
    }
    return left @ (torch.tensor(values[kind])[:, None] * right)


@pytest.mark.parametrize("kind", ["random", "half turns", "collapsed", "flat", "mirrored", "large", "small"])
def test_nearest_rotation_matches_the_svd(kind):
    matrices = special_matrices(kind)
    actual = nearest_rotation_fused(matrices.to(DEVICE)).cpu().double()
    errors = (actual - svd_rotation(matrices)).flatten(1).abs().amax(1)
    gaps = singular_gap(matrices)
    assert errors[gaps > 0.1].max() < 1e-5
    assert (errors * gaps)[gaps > 0.003].max() < 2e-6


def test_nearest_rotation_runs_the_kernel_where_it_can(monkeypatch):
    matrices = special_matrices("random").to(DEVICE)
    monkeypatch.setattr(rotations, "can_use_kernels", lambda constants: constants[0] is matrices)
    assert torch.equal(rotations.nearest_rotation(matrices), nearest_rotation_fused(matrices))


@pytest.mark.parametrize("values", [(1, 0, 0), (1, 1e-4, 0), (1, 0.5, -0.5), (1, 1, -1), (0, 0, 0)])
def test_nearest_rotation_of_a_degenerate_matrix_is_one_of_the_nearest(values):
    generator = torch.Generator().manual_seed(0)
    left, right = quat_to_matrix(torch.randn(2, 50, 4, generator=generator))
    matrices = left @ (torch.tensor(values, dtype=torch.float32)[:, None] * right)
    actual = nearest_rotation_fused(matrices.to(DEVICE)).cpu()
    torch.testing.assert_close(actual @ actual.mT, torch.eye(3).expand(50, 3, 3), rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.linalg.det(actual), torch.ones(50), rtol=0, atol=2e-6)
    distances = ((x - matrices).flatten(1).norm(dim=1) for x in (actual, svd_rotation(matrices)))
    torch.testing.assert_close(*distances, rtol=0, atol=1e-3, check_dtype=False)


def test_tables_of_a_small_tree():
    assert ancestor_table((-1, 0, 1, 0)).tolist() == [[0, 1, 2, 3], [-1, 0, 1, 0], [-1, -1, 0, -1], [-1] * 4]
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.7, 0.0, 0.3]]).numpy()
    joints, chosen = influence_tables(weights)
    assert joints[0].tolist() == [1, 0] and joints[1, 1] == 2
    torch.testing.assert_close(torch.from_numpy(chosen), torch.tensor([[1.0, 0.7], [0.0, 0.3]]))


@pytest.mark.gpu
def test_kernels_match_reference_on_a_gpu(body):
    params = random_params(4, 8, joints=24)
    on_gpu = copy.deepcopy(body).cuda()
    actual, expected = on_gpu.pose(params.to("cuda")), copy.deepcopy(body).double().pose(params.to(torch.double))
    assert_same_bodies(actual, expected)
    torch.testing.assert_close(on_gpu(params.to("cuda")).vertices, actual.vertices, rtol=0, atol=0)
    gaps = singular_gap(expected.vertex_transforms[..., :3, :3])[..., None, None]
    assert ((actual.rotations.cpu() - expected.rotations).abs() * gaps).max() < 1e-5


@pytest.mark.gpu
def test_posing_does_not_synchronize(body):
    on_gpu, params = copy.deepcopy(body).cuda(), random_params(4, joints=24).to("cuda")
    differentiable = params.map(lambda x: x.clone().requires_grad_())
    on_gpu.pose(params)
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu.pose(params)
        on_gpu(differentiable)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_poses_that_require_gradients_run_the_reference(body):
    params = random_params(2, joints=24).to("cuda").map(lambda x: x.requires_grad_())
    copy.deepcopy(body).cuda()(params).vertices.square().sum().backward()
    assert all(x.grad.isfinite().all() and x.grad.abs().max() > 0 for x in vars(params).values())
