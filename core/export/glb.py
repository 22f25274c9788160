"""glTF 2.0 binaries with a skeleton and animations: the body mesh in the avatar's colours, or the Gaussians.

glTF: metres, y up, +z to the front, quaternions x y z w, colours of vertices linear. Joints are the nodes `pelvis`,
`left_hip`, ... of SMPL's tree, in the rest pose of the avatar's shape; pose correctives are left out.

Gaussians follow KHR_gaussian_splatting (release candidate): linear scales, opacities in 0..1, spherical harmonics of
degree 0 in display colours. The extension has no skinning, so the primitive's `extras.hgg_skinning` holds it: version
1, `skin` (index of the glTF skin), `joints` and `weights` (indices of accessors [N, 4]; weights sum to one). A centre
moves by linear blend skinning with the matrices of that skin, a rotation turns by the nearest rotation of the blended
matrix.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.avatar.avatar import Avatar, canonical_gaussians
from core.export.ply import SH_C0
from core.export.rig import GlbWriter, skinning_table, unit_normals
from core.export.skeleton import Clip, bake
from core.export.vertex_colors import vertex_colors
from core.motion.motion import Motion
from smpl_renderer.body_model import JOINT_NAMES, BodyModel

SPLATS = "KHR_gaussian_splatting"
UNLIT = "KHR_materials_unlit"


def save_mesh_glb(path: Path, avatar: Avatar, body: BodyModel, motions: Sequence[Motion] = ()) -> None:
    """Write the body mesh of an avatar: skinned, with vertex colours, one animation for each motion.

    Args:
        path: Output file.
        avatar: An avatar without batch axes.
        body: Its body.
        motions: Animations.
    """
    writer = GlbWriter()
    vertices = _shaped(avatar, body)
    faces = body.faces.cpu().numpy()
    joints, weights = skinning_table(body)
    display = vertex_colors(avatar, body)
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)  # sRGB, IEC 61966-2-1
    primitive = {
        "attributes": {
            "POSITION": writer.attribute(vertices.astype(np.float32), "VEC3", with_bounds=True),
            "NORMAL": writer.attribute(unit_normals(vertices, faces).astype(np.float32), "VEC3"),
            "COLOR_0": writer.attribute(linear.astype(np.float32), "VEC3"),
            "JOINTS_0": writer.attribute(joints.astype(np.uint8), "VEC4"),
            "WEIGHTS_0": writer.attribute(weights.astype(np.float32), "VEC4"),
        },
        "indices": writer.indices(faces),
        "material": 0,
    }
    # The colours include the light of the captured images.
    material = {"name": "avatar", "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}}
    writer.gltf["materials"] = [material | {"extensions": {UNLIT: {}}}]
    writer.gltf["extensionsUsed"] = [UNLIT]
    _finish(writer, path, avatar, body, motions, primitive, is_skinned=True)


def save_splats_glb(path: Path, avatar: Avatar, body: BodyModel, motions: Sequence[Motion] = ()) -> None:
    """Write the Gaussians of an avatar in its rest pose, with skeleton, skinning and one animation for each motion.

    Args:
        path, avatar, body, motions: As of `save_mesh_glb`.
    """
    writer = GlbWriter()
    gaussians = canonical_gaussians(avatar, body).detach().to("cpu", torch.float32)
    quats = gaussians.quats.double().numpy()
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    harmonics = ((gaussians.colors - 0.5) / SH_C0).numpy()
    joints, weights = skinning_table(body)
    ids = avatar.vertex_ids.cpu().numpy()
    primitive = {
        "mode": 0,
        "attributes": {
            "POSITION": writer.attribute(gaussians.means.numpy().astype(np.float32), "VEC3", with_bounds=True),
            f"{SPLATS}:ROTATION": writer.attribute(quats[:, [1, 2, 3, 0]].astype(np.float32), "VEC4"),
            f"{SPLATS}:SCALE": writer.attribute(gaussians.scales.numpy().astype(np.float32), "VEC3"),
            f"{SPLATS}:OPACITY": writer.attribute(gaussians.opacities.numpy().astype(np.float32), "SCALAR"),
            f"{SPLATS}:SH_DEGREE_0_COEF_0": writer.attribute(harmonics.astype(np.float32), "VEC3"),
        },
        "extensions": {
            SPLATS: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "sortingMethod": "cameraDistance",
                "projection": "perspective",
            }
        },
        "extras": {
            "hgg_skinning": {
                "version": 1,
                "skin": 0,
                "joints": writer.attribute(joints[ids].astype(np.uint8), "VEC4"),
                "weights": writer.attribute(weights[ids].astype(np.float32), "VEC4"),
            }
        },
    }
    writer.gltf["extensionsUsed"] = [SPLATS]
    _finish(writer, path, avatar, body, motions, primitive, is_skinned=False)


def _shaped(avatar: Avatar, body: BodyModel) -> np.ndarray:
    return body.shape_vertices(avatar.betas.to(body.v_template)).detach().cpu().numpy()


def _finish(
    writer: GlbWriter,
    path: Path,
    avatar: Avatar,
    body: BodyModel,
    motions: Sequence[Motion],
    primitive: dict[str, Any],
    is_skinned: bool,
) -> None:
    """Add skeleton, animations and the node of the avatar, and write the file. Nodes 0 to 23 are the joints."""
    rest = body.rest_joints(body.shape_vertices(avatar.betas.to(body.v_template))).detach().cpu().numpy()
    nodes: list[dict[str, Any]] = []
    for joint, parent in enumerate(body.parents):
        offset = rest[joint] - (rest[parent] if parent >= 0 else 0)
        node: dict[str, Any] = {"name": JOINT_NAMES[joint], "translation": offset.tolist()}
        if children := [i for i, p in enumerate(body.parents) if p == joint]:
            node["children"] = children
        nodes.append(node)
    inverse = np.tile(np.eye(4, dtype=np.float32), (len(rest), 1, 1))
    inverse[:, 3, :3] = -rest  # columns follow each other in glTF
    skin = {"inverseBindMatrices": writer.add(inverse, "MAT4"), "joints": list(range(len(rest))), "skeleton": 0}
    nodes.append({"name": "avatar", "mesh": 0, **({"skin": 0} if is_skinned else {})})
    writer.gltf |= {
        "meshes": [{"name": "avatar", "primitives": [primitive]}],
        "skins": [skin],
        "nodes": nodes,
        "scenes": [{"nodes": [0, len(nodes) - 1]}],
    }
    if motions:
        writer.gltf["animations"] = [
            _animation(writer, bake(motion, body, avatar.betas), rest[0]) for motion in motions
        ]
    writer.save(path)


def _animation(writer: GlbWriter, clip: Clip, rest_pelvis: np.ndarray) -> dict[str, Any]:
    quats = clip.quats.cpu().numpy()
    places = clip.params.transl.cpu().numpy() + rest_pelvis
    if clip.loops:  # the first frame again, so that the animation closes
        signs = np.sign((quats[-1] * quats[0]).sum(-1, keepdims=True))
        quats = np.concatenate([quats, np.where(signs == 0, 1, signs)[None] * quats[:1]])
        places = np.concatenate([places, places[:1]])
    times = writer.add((np.arange(len(quats)) / clip.fps).astype(np.float32), "SCALAR", with_bounds=True)
    samplers, channels = [], []

    def channel(node: int, target: str, values: np.ndarray, kind: str) -> None:
        samplers.append({"input": times, "output": writer.add(values.astype(np.float32), kind)})
        channels.append({"sampler": len(samplers) - 1, "target": {"node": node, "path": target}})

    channel(0, "translation", places, "VEC3")
    for joint in range(quats.shape[1]):
        channel(joint, "rotation", quats[:, joint, [1, 2, 3, 0]], "VEC4")
    return {"name": clip.name, "samplers": samplers, "channels": channels}
