"""Posing compared with the `smplx` package, and the laws of posing."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import smplx
import torch
from random_bodies import random_params

from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.skinning import transform_points
from smpl_renderer.types import BodyParams


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


def test_rest_pose_gives_the_shaped_vertices(body):
    params = dataclasses.replace(BodyParams.zeros(2), betas=random_params(2).betas)
    posed = body(params)
    torch.testing.assert_close(posed.vertices, posed.shaped, rtol=0, atol=1e-6)
    torch.testing.assert_close(posed.joints, body.J_regressor @ posed.shaped, rtol=0, atol=1e-6)
    assert (posed.shaped[0] - posed.shaped[1]).abs().max() > 0.01


def test_vertex_transforms_map_shaped_to_posed_vertices(body):
    posed = body(random_params(2))
    moved = transform_points(posed.shaped, posed.vertex_transforms)
    torch.testing.assert_close(moved, posed.vertices, rtol=0, atol=0)
    torch.testing.assert_close(posed.vertex_transforms[..., 3, :], torch.tensor([0.0, 0, 0, 1]).expand(2, 6890, 4))


def test_scale_and_translation_are_applied_last(body):
    params = random_params(1)
    plain = body(dataclasses.replace(params, scale=torch.ones(1), transl=torch.zeros(1, 3)))
    posed = body(params)
    for name in ("vertices", "joints"):
        expected = params.scale * getattr(plain, name) + params.transl[:, None]
        torch.testing.assert_close(getattr(posed, name), expected, rtol=0, atol=1e-5)


def test_rotating_the_world_rotates_the_root(toy_body):
    """A rotation of the world about its origin rotates the root joint about the rest pelvis and moves the pelvis."""
    body, params = toy_body.double(), random_params(4, joints=4, dtype=torch.double)
    rotation = axis_angle_to_matrix(torch.tensor([0.3, -1.1, 0.8], dtype=torch.double))
    pelvis = params.scale[:, None] * body.rest_joints(body.shape_vertices(params.betas))[:, 0]
    rotated = dataclasses.replace(
        params,
        global_orient=matrix_to_axis_angle(rotation @ axis_angle_to_matrix(params.global_orient)),
        transl=(params.transl + pelvis) @ rotation.T - pelvis,
    )
    torch.testing.assert_close(body(rotated).vertices, body(params).vertices @ rotation.T)


def test_batch_axes_are_independent(toy_body):
    params = random_params(2, 3, joints=4)
    posed = toy_body(params)
    assert posed.vertices.shape == (2, 3, 7, 3) and posed.vertex_transforms.shape == (2, 3, 7, 4, 4)
    torch.testing.assert_close(posed[1, 2].vertices, toy_body(params[1, 2]).vertices)


def test_missing_betas_count_as_zero(toy_body):
    params = random_params(2, joints=4)
    cut = torch.cat([params.betas[:, :4], torch.zeros(2, 6)], -1)
    few = toy_body(dataclasses.replace(params, betas=params.betas[:, :4]))
    torch.testing.assert_close(few.vertices, toy_body(dataclasses.replace(params, betas=cut)).vertices)
    with pytest.raises(ValueError, match="betas"):
        toy_body.shape_vertices(torch.zeros(2, 11))


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0.0, 1.0, math.pi, 2 * math.pi])
def test_gradients_match_finite_differences(toy_body, angle):
    """At zero and at full turns, Rodrigues' formula divides zero by zero."""
    body, params = toy_body.double(), random_params(joints=4, dtype=torch.double)
    directions = torch.nn.functional.normalize(torch.cat([params.global_orient, params.body_pose]).view(4, 3), dim=-1)
    pose = (angle * directions).flatten()
    inputs = [params.betas, pose[:3], pose[3:], params.transl, params.scale]

    def pose_body(*values):
        posed = body(BodyParams(*values))
        return posed.vertices, posed.joints, posed.vertex_transforms

    # Below 1e-6 rad the sine is replaced by the angle: a relative error of 1e-6 in the numerical derivative.
    assert torch.autograd.gradcheck(pose_body, [x.requires_grad_() for x in inputs], atol=1e-5, rtol=1e-4)


def test_gradients_at_the_rest_pose_are_finite_in_float32(body):
    params = BodyParams.zeros(1).map(lambda x: x.requires_grad_())
    posed = body(params)
    generator = torch.Generator().manual_seed(0)
    (posed.vertices * torch.randn(posed.vertices.shape, generator=generator)).sum().backward()
    for field in dataclasses.fields(params):
        gradient = getattr(params, field.name).grad
        assert gradient.isfinite().all() and gradient.abs().max() > 0, field.name


def test_autocast_does_not_change_posing(toy_body):
    params = random_params(2, joints=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posed = toy_body(params)
    torch.testing.assert_close(posed.vertices, toy_body(params).vertices, rtol=0, atol=0)


def test_state_dict_is_empty(body):
    assert not body.state_dict()
    assert copy.deepcopy(body).fingerprint == body.fingerprint


@pytest.mark.gpu
def test_vertices_on_a_gpu_match_the_cpu(body):
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
def test_wrong_arrays_are_refused_by_name(toy_arrays, name, value, message):
    with pytest.raises(ValueError, match=message):
        BodyModel({**toy_arrays, name: value}, name="wrong")
    without = {key: array for key, array in toy_arrays.items() if key != name}
    with pytest.raises(ValueError, match=f"lacks {name}"):
        BodyModel(without, name="wrong")
