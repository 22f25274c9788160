"""Posing against the `smplx` package, and the laws of posing."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import smplx
import torch

from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.skinning import transform_points
from smpl_renderer.types import BodyParams


def random_params(*batch: int, joints: int = 24, seed: int = 0, dtype=None) -> BodyParams:
    """Strong poses, shapes and places."""
    generator = torch.Generator().manual_seed(seed)
    params = BodyParams(
        betas=torch.randn(*batch, 10, generator=generator),
        global_orient=2 * torch.randn(*batch, 3, generator=generator),
        body_pose=0.7 * torch.randn(*batch, 3 * (joints - 1), generator=generator),
        transl=torch.randn(*batch, 3, generator=generator),
        scale=0.5 + torch.rand(batch, generator=generator),
    )
    return params.to(dtype)


def test_equals_smplx(body):
    params = dataclasses.replace(random_params(3), scale=torch.ones(3))
    arrays = {
        "v_template": body.v_template,
        "shapedirs": body.shapedirs,
        "posedirs": body.posedirs,
        "J_regressor": body.J_regressor,
        "weights": body.lbs_weights,
        "f": body.faces,
        "kintree_table": torch.tensor([[2**32 - 1, *body.parents[1:]], list(range(24))]),
    }
    struct = smplx.utils.Struct(**{name: array.numpy() for name, array in arrays.items()})
    reference = smplx.SMPL(model_path="", data_struct=struct, num_betas=10, batch_size=3)

    expected = reference(**{name: getattr(params, name) for name in ("betas", "global_orient", "body_pose", "transl")})
    actual = body(params)

    # Both compute in float32 with lengths of a few metres.
    torch.testing.assert_close(actual.vertices, expected.vertices, rtol=0, atol=1e-5)
    torch.testing.assert_close(actual.joints, expected.joints[:, :24], rtol=0, atol=1e-5)


def test_rest_pose_is_the_shaped_body(body):
    params = dataclasses.replace(BodyParams.zeros(2), betas=random_params(2).betas)
    posed = body(params)
    torch.testing.assert_close(posed.vertices, posed.shaped, rtol=0, atol=1e-6)
    torch.testing.assert_close(posed.joints, body.J_regressor @ posed.shaped, rtol=0, atol=1e-6)
    assert (posed.shaped[0] - posed.shaped[1]).abs().max() > 0.01


def test_vertex_transforms_take_shaped_to_posed(body):
    posed = body(random_params(2))
    moved = transform_points(posed.shaped, posed.vertex_transforms)
    torch.testing.assert_close(moved, posed.vertices, rtol=0, atol=0)
    torch.testing.assert_close(posed.vertex_transforms[..., 3, :], torch.tensor([0.0, 0, 0, 1]).expand(2, 6890, 4))


def test_scale_and_translation_come_last(body):
    params = random_params(1)
    plain = body(dataclasses.replace(params, scale=torch.ones(1), transl=torch.zeros(1, 3)))
    posed = body(params)
    for name in ("vertices", "joints"):
        expected = params.scale * getattr(plain, name) + params.transl[:, None]
        torch.testing.assert_close(getattr(posed, name), expected, rtol=0, atol=1e-5)


def test_turning_the_world(toy_body):
    """A rotation of the world about its origin turns the root, and moves it about the rest pelvis."""
    body, params = toy_body.double(), random_params(4, joints=4, dtype=torch.double)
    turn = axis_angle_to_matrix(torch.tensor([0.3, -1.1, 0.8], dtype=torch.double))
    pelvis = params.scale[:, None] * body.rest_joints(body.shape_vertices(params.betas))[:, 0]
    turned = dataclasses.replace(
        params,
        global_orient=matrix_to_axis_angle(turn @ axis_angle_to_matrix(params.global_orient)),
        transl=(params.transl + pelvis) @ turn.T - pelvis,
    )
    torch.testing.assert_close(body(turned).vertices, body(params).vertices @ turn.T)


def test_any_batch_axes(toy_body):
    params = random_params(2, 3, joints=4)
    posed = toy_body(params)
    assert posed.vertices.shape == (2, 3, 7, 3) and posed.vertex_transforms.shape == (2, 3, 7, 4, 4)
    torch.testing.assert_close(posed[1, 2].vertices, toy_body(params[1, 2]).vertices)


def test_fewer_betas_are_the_first(toy_body):
    params = random_params(2, joints=4)
    cut = torch.cat([params.betas[:, :4], torch.zeros(2, 6)], -1)
    few = toy_body(dataclasses.replace(params, betas=params.betas[:, :4]))
    torch.testing.assert_close(few.vertices, toy_body(dataclasses.replace(params, betas=cut)).vertices)
    with pytest.raises(ValueError, match="betas"):
        toy_body.shape_vertices(torch.zeros(2, 11))


@pytest.mark.parametrize("angle", [0.0, 1.0, math.pi, 2 * math.pi])
def test_gradients(toy_body, angle):
    """At zero and at full turns, the usual formula divides zero by zero."""
    body, params = toy_body.double(), random_params(joints=4, dtype=torch.double)
    directions = torch.nn.functional.normalize(torch.cat([params.global_orient, params.body_pose]).view(4, 3), dim=-1)
    pose = (angle * directions).flatten()
    inputs = [params.betas, pose[:3], pose[3:], params.transl, params.scale]

    def pose_body(*values):
        posed = body(BodyParams(*values))
        return posed.vertices, posed.joints, posed.vertex_transforms

    # Below 1e-6 rad the sine is replaced by its angle, which the numerical derivative sees as 1e-6 relative.
    assert torch.autograd.gradcheck(pose_body, [x.requires_grad_() for x in inputs], atol=1e-5, rtol=1e-4)


def test_gradients_at_the_rest_pose_are_finite_in_float32(body):
    params = BodyParams.zeros(1).map(lambda x: x.requires_grad_())
    posed = body(params)
    generator = torch.Generator().manual_seed(0)
    (posed.vertices * torch.randn(posed.vertices.shape, generator=generator)).sum().backward()
    for field in dataclasses.fields(params):
        gradient = getattr(params, field.name).grad
        assert gradient.isfinite().all() and gradient.abs().max() > 0, field.name


def test_mixed_precision_leaves_the_body_alone(toy_body):
    params = random_params(2, joints=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posed = toy_body(params)
    torch.testing.assert_close(posed.vertices, toy_body(params).vertices, rtol=0, atol=0)


def test_state_dict_holds_no_licensed_array(body):
    assert not body.state_dict()
    assert copy.deepcopy(body).fingerprint == body.fingerprint


@pytest.mark.gpu
def test_on_a_gpu(body):
    params = random_params(2)
    posed = copy.deepcopy(body).cuda()(params.to("cuda"))
    torch.testing.assert_close(posed.vertices.cpu(), body(params).vertices, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights", np.ones((7, 3)), "weights must be"),
        ("posedirs", np.ones((7, 3, 26)), "posedirs must be"),
        ("f", np.array([[0, 1, 7]]), "vertex"),
        ("v_template", np.full((7, 3), np.nan), "NaN"),
        ("kintree_table", np.array([[-1, 2, 0, 0], [0, 1, 2, 3]]), "parents"),
    ],
)
def test_wrong_arrays(toy_arrays, name, value, message):
    with pytest.raises(ValueError, match=message):
        BodyModel({**toy_arrays, name: value}, name="wrong")
    without = {key: array for key, array in toy_arrays.items() if key != name}
    with pytest.raises(ValueError, match=f"lacks {name}"):
        BodyModel(without, name="wrong")
