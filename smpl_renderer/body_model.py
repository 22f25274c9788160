"""SMPL as a differentiable function (Loper et al., SMPL, 2015).

A body is identified by a fingerprint of its arrays, not by its file: a checkpoint or a capture finds the body it was
made with under any path, and is not used with another one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from smpl_renderer.dispatch import can_use_kernels
from smpl_renderer.posing_tables import PosingTables, kernel_arrays
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_quat
from smpl_renderer.skinning import blend_transforms, transform_points, vertex_rotations
from smpl_renderer.types import BodyOutput, BodyParams, PosedBody

SMPL_ARRAYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
MAX_BETAS = 10
"""Number of shape components in use; some SMPL files hold 300."""

JOINT_NAMES = (
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle"),
    *("spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder"),
    *("right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand"),
)
SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)


class BodyModel(nn.Module):
    """A body in SMPL's form: mean shape, shape and pose corrective blend shapes, joint regressor and skinning weights.

    All arrays are buffers that are not part of `state_dict`: SMPL's are licensed and must not enter checkpoints.

    Args:
        arrays: `v_template` [V, 3], `f` [F, 3], `shapedirs` [V, 3, S], `posedirs` [V, 3, 9 (J - 1)],
            `J_regressor` [J, V], `weights` [V, J], `kintree_table` [2, J], under SMPL's names; metres, y up, facing +z.
            Only the first ten `shapedirs` are used.
        name: Name of the body in messages.
    Raises:
        ValueError: If an array is missing or has another shape.
    """

    v_template: Float[Tensor, "V 3"]
    shapedirs: Float[Tensor, "V 3 S"]
    posedirs: Float[Tensor, "V 3 P"]
    J_regressor: Float[Tensor, "J V"]
    lbs_weights: Float[Tensor, "V J"]
    faces: Tensor
    # Derived from these for the kernels (`kernel_arrays`).
    ancestors: Int[Tensor, "D+1 J"]
    influences: Int[Tensor, "K V"]
    influence_weights: Float[Tensor, "K V"]
    joint_template: Float[Tensor, " 3J"]
    joint_dirs: Float[Tensor, "3J S"]

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str):
        super().__init__()
        arrays = _normalised(arrays)
        self.name = name
        self.fingerprint = _fingerprint(arrays)
        self.parents = (-1, *arrays["kintree_table"][0, 1:].tolist())
        self.register_buffer("faces", torch.from_numpy(arrays["f"]), persistent=False)
        self.register_buffer("lbs_weights", torch.from_numpy(arrays["weights"]), persistent=False)
        for key in ("v_template", "shapedirs", "posedirs", "J_regressor"):
            self.register_buffer(key, torch.from_numpy(arrays[key]), persistent=False)
        for key, array in kernel_arrays(arrays, self.parents).items():
            self.register_buffer(key, torch.from_numpy(array), persistent=False)

    @property
    def num_vertices(self) -> int:
        return self.v_template.shape[0]

    @property
    def num_betas(self) -> int:
        return self.shapedirs.shape[-1]

    @property
    def num_joints(self) -> int:
        return self.J_regressor.shape[0]

    def shape_vertices(self, betas: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch V 3"]:
        """Vertices of the rest pose, with shape. `betas` may hold fewer components than the model."""
        if betas.shape[-1] > self.num_betas:
            raise ValueError(f"betas must hold at most {self.num_betas} components, got {betas.shape[-1]}")
        dirs = self.shapedirs[..., : betas.shape[-1]].flatten(0, 1)
        return linear(betas, dirs, self.v_template.flatten()).unflatten(-1, (-1, 3))

    def rest_joints(self, shaped: Float[Tensor, "*batch V 3"]) -> Float[Tensor, "*batch J 3"]:
        """Joints of the rest pose, from its vertices."""
        return self.J_regressor @ shaped

    def forward(self, params: BodyParams) -> BodyOutput:
        """Shape, pose, scale and translate bodies with any batch axes.

        Differentiable in all parameters. Runs in Triton kernels on CUDA, for float32 without gradients.

        Source: Loper et al., SMPL (2015), Sec. 3.
        """
        # Autocast would run the matrix products in half precision, with errors of millimetres.
        with torch.autocast(params.scale.device.type, enabled=False):
            return self.pose_fused(params) if self._can_use_kernels(params) else self.pose_reference(params)

    def pose(self, params: BodyParams) -> PosedBody:
        """Pose bodies as `forward` does, and add the rotation of each vertex."""
        with torch.autocast(params.scale.device.type, enabled=False):
            if self._can_use_kernels(params):
                return self.pose_fused(params)
            output = self.pose_reference(params)
            rotations = vertex_rotations(output.vertex_transforms)
            return PosedBody(**vars(output), rotations=rotations, quats=matrix_to_quat(rotations), scale=params.scale)

    def _can_use_kernels(self, params: BodyParams) -> bool:
        inputs = [getattr(params, f.name) for f in fields(params)]
        return can_use_kernels(constants=[*inputs, self.v_template]) and params.betas.shape[:-1] == params.batch_shape

    def pose_fused(self, params: BodyParams) -> PosedBody:
        """Compute `pose` in Triton kernels, for float32, a batch that is not empty, and no gradients.

        Vertices and joints at rest are computed once for all poses whose betas are expanded from the same memory.
        """
        from smpl_renderer.posing_kernel import pose_bodies_fused  # needs Triton

        betas = _without_expanded_axes(params.betas)
        shaped = self.shape_vertices(betas)
        rest_joints = linear(betas, self.joint_dirs[:, : betas.shape[-1]], self.joint_template)
        tables = PosingTables(self.posedirs, self.ancestors, self.influences, self.influence_weights)
        return pose_bodies_fused(tables, params, shaped, rest_joints)

    def pose_reference(self, params: BodyParams) -> BodyOutput:
        """Define `forward` in plain PyTorch, for any device and dtype."""
        pose = torch.cat([params.global_orient, params.body_pose], -1)
        rotations = axis_angle_to_matrix(pose.unflatten(-1, (self.num_joints, 3)))

        shaped = self.shape_vertices(params.betas)
        rest_joints = self.rest_joints(shaped)
        pose_features = rotations[..., 1:, :, :] - torch.eye(3, dtype=pose.dtype, device=pose.device)
        correctives = torch.einsum("vkp,...p->...vk", self.posedirs, pose_features.flatten(-3))

        joints, orientations = self._kinematic_chain(rotations, rest_joints)
        shifts = joints - torch.einsum("...jab,...jb->...ja", orientations, rest_joints)
        blended = blend_transforms(_affine(orientations, shifts), self.lbs_weights)

        # With correctives, scale and translation included, the transforms map `shaped` to the posed vertices.
        scale, transl = params.scale[..., None, None], params.transl[..., None, :]
        shifts = scale * transform_points(correctives, blended) + transl
        vertex_transforms = _affine(scale[..., None] * blended[..., :3, :3], shifts)
        return BodyOutput(
            vertices=transform_points(shaped, vertex_transforms),
            joints=scale * joints + transl,
            shaped=shaped,
            vertex_transforms=vertex_transforms,
        )

    def _kinematic_chain(
        self, rotations: Float[Tensor, "*batch J 3 3"], rest_joints: Float[Tensor, "*batch J 3"]
    ) -> tuple[Float[Tensor, "*batch J 3"], Float[Tensor, "*batch J 3 3"]]:
        """Positions and orientations of the posed joints, from rotations relative to their parents."""
        positions, orientations = [rest_joints[..., 0, :]], [rotations[..., 0, :, :]]
        for joint, parent in enumerate(self.parents[1:], start=1):
            bone = rest_joints[..., joint, :] - rest_joints[..., parent, :]
            positions.append(positions[parent] + (orientations[parent] @ bone[..., None])[..., 0])
            orientations.append(orientations[parent] @ rotations[..., joint, :, :])
        return torch.stack(positions, -2), torch.stack(orientations, -3)


def _without_expanded_axes(betas: Float[Tensor, "*batch S"]) -> Float[Tensor, "*shapes S"]:
    """Drop the last batch axes along which the values share memory (stride 0) or have length 1."""
    while betas.ndim > 1 and (betas.stride(-2) == 0 or betas.shape[-2] == 1):
        betas = betas.select(-2, 0)
    return betas


def _affine(matrices: Float[Tensor, "*batch 3 3"], shifts: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    # Created on the device: a copy from the host would wait for it.
    last_row = torch.eye(4, dtype=shifts.dtype, device=shifts.device)[3:].expand(*shifts.shape[:-1], 1, 4)
    return torch.cat([torch.cat([matrices, shifts[..., None]], -1), last_row], -2)


def _normalised(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Check a body's arrays and convert them to contiguous float32 and int64."""
    if missing := [name for name in SMPL_ARRAYS if name not in arrays]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    integer = ("f", "kintree_table")
    out = {
        name: np.ascontiguousarray(arrays[name], np.int64 if name in integer else np.float32) for name in SMPL_ARRAYS
    }
    out["shapedirs"] = np.ascontiguousarray(out["shapedirs"][..., :MAX_BETAS])
    num_vertices, num_joints, num_faces = len(out["v_template"]), len(out["J_regressor"]), len(out["f"])
    expected = {
        "v_template": (num_vertices, 3),
        "f": (num_faces, 3),
        "shapedirs": (num_vertices, 3, out["shapedirs"].shape[-1]),
        "posedirs": (num_vertices, 3, 9 * (num_joints - 1)),
        "J_regressor": (num_joints, num_vertices),
        "weights": (num_vertices, num_joints),
        "kintree_table": (2, num_joints),
    }
    for name, shape in expected.items():
        if out[name].shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(out[name].shape)}")
        if name not in integer and not np.isfinite(out[name]).all():
            raise ValueError(f"{name} holds NaN or infinity")
    if num_faces and not 0 <= out["f"].min() <= out["f"].max() < num_vertices:
        raise ValueError(f"f holds the index of a vertex beyond the {num_vertices}")
    parents = out["kintree_table"][0, 1:]
    if (parents < 0).any() or (parents >= np.arange(1, num_joints)).any():
        raise ValueError("kintree_table must list parents before their children")
    return out


def _fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Hash of a body's arrays in 16 hexadecimal digits; the same for every file format."""
    digest = hashlib.sha256()
    for name in ("v_template", "f", "shapedirs", "posedirs", "weights", "J_regressor"):
        # Adding zero turns -0.0 into 0.0, in which sparse and dense matrices differ.
        digest.update(str(arrays[name].shape).encode() + (arrays[name] + 0).tobytes())
    return digest.hexdigest()[:16]
