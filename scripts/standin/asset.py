"""The compact file of the stand-in body: SMPL's arrays in 0.7 instead of 20 MB. Read by `load_body`.

v_template           float32, metres
f                    uint16, faces
w_idx, w_val         four joints of each vertex and their weights (float16; readers scale them to a sum of one)
J_row, J_col, J_val  entries of the joint regressor (uint16; readers scale rows to a sum of one)
shapedirs            int16, in 10 micrometres
pd_step, pd_val      differences of the flat indices of non-zero posedirs; their values (int8, in half millimetres)
vt, ft               texture coordinates (uint16 / 65535), and the corners of faces in them
face_part            part of the body of each face, an index into `surface.PARTS`
mirror, mh_index     mirrored vertex, and vertex of MakeHuman's base mesh
"""

from pathlib import Path

import numpy as np

from scripts.standin.build import StandinBody
from smpl_renderer.files import atomic_path

SHAPE_UNIT = 1e-5
POSE_UNIT = 5e-4
JOINT_UNIT = 1e-5


def save_asset(path: Path, body: StandinBody) -> None:
    """Write the compact file."""
    joints = np.argsort(-body.weights, axis=1, kind="stable")[:, :4]
    joint_units = np.round(body.J_regressor / JOINT_UNIT)
    rows, columns = np.nonzero(joint_units)
    pose_units = np.round(body.posedirs / POSE_UNIT).astype(np.int8).ravel()
    moving = np.flatnonzero(pose_units)
    used_uvs, uv_faces = np.unique(body.surface.uv_faces, return_inverse=True)
    arrays = {
        "v_template": body.v_template.astype(np.float32),
        "f": body.surface.faces.astype(np.uint16),
        "w_idx": joints.astype(np.uint8),
        "w_val": np.take_along_axis(body.weights, joints, axis=1).astype(np.float16),
        "J_row": rows.astype(np.uint8),
        "J_col": columns.astype(np.uint16),
        "J_val": joint_units[rows, columns].astype(np.uint16),
        "shapedirs": np.round(body.shapedirs / SHAPE_UNIT).astype(np.int16),
        "pd_step": np.diff(moving, prepend=0).astype(np.uint32),
        "pd_val": pose_units[moving],
        "vt": np.round(65535 * body.uvs[used_uvs]).astype(np.uint16),
        "ft": uv_faces.reshape(-1, 3).astype(np.uint16),
        "face_part": body.surface.parts.astype(np.uint8),
        "mirror": body.mirror.astype(np.uint16),
        "mh_index": body.source.astype(np.uint16),
    }
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)
