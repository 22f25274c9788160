"""Body model files: SMPL and the stand-in, found by fingerprint."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from smpl_renderer.body_model import JOINT_NAMES, SMPL_ARRAYS, SMPL_PARENTS, BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY
from smpl_renderer.pickles import read_smpl_pickle

STANDIN_BODY = REPOSITORY / "smpl_renderer/assets/standin_body.npz"
SMPL_FOLDER = REPOSITORY / "smpl_renderer/mvhuman_tools/visual_smpl/smpl_"
SMPL_FILES = (SMPL_FOLDER / "SMPL_NEUTRAL.pkl", SMPL_FOLDER / "SMPL_NEUTRAL.npz")


def load_body(path: Path) -> BodyModel:
    """Read a body model: SMPL's `.npz` or `.pkl` (with or without chumpy objects), or the stand-in's compact `.npz`.

    Raises:
        InputError: If the file is missing, cannot be read, or lacks an array.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such body model file")
    if path.suffix not in (".npz", ".pkl"):
        raise InputError(f"{path}: a body model must be a .npz or .pkl file in SMPL's format")
    arrays = read_smpl_pickle(path) if path.suffix == ".pkl" else _read_npz(path)
    try:
        body = BodyModel(arrays, name=path.stem)
    except ValueError as error:
        raise InputError(f"{path}: not a body model in SMPL's format: {error}") from error
    if body.num_joints != len(JOINT_NAMES):
        raise InputError(f"{path}: has {body.num_joints} joints, not SMPL's 24; SMPL-H and SMPL-X bodies do not fit")
    return body


def find_body(fingerprint: str | None, override: Path | None = None) -> BodyModel:
    """Load the body that a checkpoint or capture was made with.

    Args:
        fingerprint: Of the body; None stands for SMPL (captures that name no body, as those of MVHumanNet).
        override: Use this file; it must have that fingerprint, unless that is None.
    Raises:
        InputError: If there is no such body.
    """
    if override is not None:
        body = load_body(override)
        if fingerprint is not None and body.fingerprint != fingerprint:
            raise InputError(f"{override}: its fingerprint is {body.fingerprint}, but the body needed is {fingerprint}")
        return body
    present = [path for path in SMPL_FILES if path.is_file()]
    if fingerprint is None:
        if not present:
            raise InputError(
                f"SMPL is needed: put SMPL_NEUTRAL.pkl (or .npz) into {SMPL_FOLDER}, "
                "or name it with --body (main.py: --data.body)"
            )
        return load_body(present[0])
    for path in (STANDIN_BODY, *present):
        body = load_body(path)
        if body.fingerprint == fingerprint:
            return body
    raise InputError(
        f"no body with fingerprint {fingerprint}: it is neither the shipped stand-in nor in {SMPL_FOLDER}; "
        "name its file with --body (main.py: --data.body)"
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "pd_step" in archive.files:
                return _expand_compact(archive)
            # Some of SMPL's files hold Python objects besides, which would need unpickling.
            return {name: archive[name] for name in SMPL_ARRAYS if name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own for a broken archive
        raise InputError(f"{path}: cannot be read as .npz ({error}); get a new copy") from error


def _expand_compact(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SMPL's arrays from the stand-in's compact layout, which `scripts/make_standin_body.py` writes.

    Everything is computed in float64, exact up to one rounding, so that the fingerprint is the same on any machine.
    """
    num_vertices = len(packed["v_template"])
    num_joints = len(SMPL_PARENTS)
    weights = np.zeros((num_vertices, num_joints))
    np.put_along_axis(weights, packed["w_idx"].astype(np.int64), packed["w_val"].astype(np.float64), axis=1)
    regressor = np.zeros((num_joints, num_vertices))
    regressor[packed["J_row"], packed["J_col"]] = packed["J_val"]
    posedirs = np.zeros(num_vertices * 3 * 9 * (num_joints - 1))
    posedirs[np.cumsum(packed["pd_step"], dtype=np.int64)] = packed["pd_val"] / 2000.0
    return {
        "v_template": packed["v_template"],
        "f": packed["f"],
        "weights": weights / weights.sum(1, keepdims=True),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "shapedirs": packed["shapedirs"] * 1e-5,
        "posedirs": posedirs.reshape(num_vertices, 3, -1),
        "kintree_table": np.array([SMPL_PARENTS, range(num_joints)]),
    }
