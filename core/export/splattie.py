"""`.splattie`: a ZIP with rigged Gaussians for a web component (github.com/affromero/splattie-widget, MIT).

`manifest.json` names the other files: the Gaussians as `.ply` (axes of 3DGS: y down), `skeleton.json` (names, parents
and rest positions of SMPL's 24 joints, in the same axes), `lbs_weights.bin` (`lbsw-v1`) and `states.json`. An
`lbsw-v1` file holds `LBSW`, four little-endian uint32 (version 1, Gaussians N, joints J, influences K), then [N, K]
uint16 joints and [N, K] float16 weights.
"""

import json
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from core.avatar.avatar import Avatar, canonical_gaussians
from core.export.ply import save_ply
from core.export.rig import INFLUENCES, skinning_table
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.files import atomic_path

FORMAT_VERSION = "0.3.1"
_STATE = {
    "ghost": {"amplitude": 0, "frequency": 0, "wobble": 0},
    "expression": {},
    "camera": {"theta": 0, "phi": 80, "radius": 3.5, "fov": 40},
    "rotation": [0, 0, 0],
    "tracking": {"head": 0.3, "torso": 0.1},
}


def save_splattie(path: Path, avatar: Avatar, body: BodyModel, name: str = "avatar") -> None:
    """Write an avatar without batch axes, in its rest pose.

    Args:
        path: Output file.
        avatar, body: The avatar and its body.
        name: Name in the manifest.
    """
    rest = body.rest_joints(body.shape_vertices(avatar.betas.to(body.v_template))).detach().cpu().numpy()
    joints, weights = (table[avatar.vertex_ids.cpu().numpy()] for table in skinning_table(body))
    header = struct.pack("<4sIIII", b"LBSW", 1, avatar.count, len(rest), INFLUENCES)
    skeleton = {
        "rig": "puppeteer-object",
        "jointCount": len(rest),
        "names": list(JOINT_NAMES),
        "parents": list(body.parents),
        "restPositions": (rest * np.array([1, -1, -1])).round(6).tolist(),
    }
    splat = {"file": "avatar.ply", "format": "ply", "numGaussians": avatar.count, "topology": "object-auto"}
    manifest = {
        "format": "splattie",
        "formatVersion": FORMAT_VERSION,
        "assetType": "object",
        "avatar": {"name": name, "splat": splat},
        "animation": {
            "type": "lbs",
            "skeleton": {"file": "skeleton.json", "rig": "puppeteer-object"},
            "weights": {"file": "lbs_weights.bin", "format": "lbsw-v1"},
            "expression": None,
        },
        "widget": {"config": "states.json"},
        "metadata": {"viewerTransform": "viewer-upright-180x"},
    }
    states = {"defaults": {"camera": _STATE["camera"]}, "states": dict.fromkeys(("idle", "hover", "click"), _STATE)}
    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
        ply = Path(folder) / "avatar.ply"
        save_ply(ply, canonical_gaussians(avatar, body))
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in (("manifest.json", manifest), ("skeleton.json", skeleton), ("states.json", states)):
                archive.writestr(file, json.dumps(content, indent=1))
            archive.writestr(
                "lbs_weights.bin", header + joints.astype("<u2").tobytes() + weights.astype("<f2").tobytes()
            )
            archive.write(ply, "avatar.ply")
