"""Files of body models: SMPL and the shipped stand-in, found by fingerprint."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from smpl_renderer.body_model import JOINT_NAMES, SMPL_ARRAYS, SMPL_PARENTS, BodyModel
from smpl_renderer.bounded_files import MAX_BODY_BYTES, check_archive
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY
from smpl_renderer.pickles import read_smpl_pickle

STANDIN_BODY = REPOSITORY / "smpl_renderer/assets/standin_body.npz"
SMPL_FOLDER = REPOSITORY / "smpl_renderer/mvhuman_tools/visual_smpl/smpl_"
SMPL_FILES = (SMPL_FOLDER / "SMPL_NEUTRAL.pkl", SMPL_FOLDER / "SMPL_NEUTRAL.npz")
"""Paths at which SMPL is expected; the first that exists is used."""


def load_body(path: Path) -> BodyModel:
    """Read a body model: SMPL's `.npz` or `.pkl`, with or without chumpy objects, or the stand-in's compact `.npz`.

    Raises:
        InputError: If the file is missing, cannot be read, lacks an array, or has other joints than SMPL.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such body model file; give an existing .npz or .pkl file in SMPL's format")
    if path.suffix not in (".npz", ".pkl"):
        raise InputError(f"{path}: a body model must be a .npz or .pkl file in SMPL's format")
    arrays = read_smpl_pickle(path) if path.suffix == ".pkl" else _read_npz(path)
    try:
        body = BodyModel(arrays, name=path.stem)
    except ValueError as error:
        raise InputError(f"{path}: not a body model in SMPL's format: {error}") from error
    if body.num_joints != len(JOINT_NAMES):
        raise InputError(f"{path}: has {body.num_joints} joints, expected SMPL's 24; give an SMPL body, not SMPL-X")
    return body


def find_body(fingerprint: str | None, override: Path | None = None) -> BodyModel:
    """Load the body that a checkpoint or capture was made with.

    Args:
        fingerprint: Fingerprint of the body; None stands for SMPL (captures that name no body, as MVHumanNet's).
        override: File to use instead of searching; its fingerprint must be the given one, unless that is None.
    Raises:
        InputError: If no body with this fingerprint is found, or `override` has another one.
    """
    if override is not None:
        body = load_body(override)
        if fingerprint is not None and body.fingerprint != fingerprint:
            raise InputError(
                f"{override}: has fingerprint {body.fingerprint}, but the body {fingerprint} is needed; give its "
                "file, or none to search for it"
            )
        return body
    present = [path for path in SMPL_FILES if path.is_file()]
    if fingerprint is None:
        if not present:
            raise InputError(
                f"SMPL is needed and not installed: put SMPL_NEUTRAL.pkl (or .npz) into {SMPL_FOLDER}, "
                "or give its path with --body (main.py: --data.body). Without SMPL, `python scripts/fit_body.py ROOT "
                "--standin` makes captures of the shipped body from the vertices of the fits"
            )
        return load_body(present[0])
    for path in (STANDIN_BODY, *present):
        body = load_body(path)
        if body.fingerprint == fingerprint:
            return body
    raise InputError(
        f"no body with fingerprint {fingerprint}: it is neither the shipped stand-in nor in {SMPL_FOLDER}; "
        "give the path of its file with --body (main.py: --data.body)"
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    check_archive(path, MAX_BODY_BYTES, "a body model")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "pd_step" in archive.files:
                return _expand_compact(archive)
            # Some of SMPL's files also hold Python objects, which are not read: that would unpickle them.
            return {name: archive[name] for name in SMPL_ARRAYS if name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy raise different types for a broken archive
        raise InputError(f"{path}: cannot be read as .npz ({error}); copy or convert it again") from error


def _expand_compact(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert the stand-in's compact layout, written by `scripts/make_standin_body.py`, to SMPL's arrays.

    All values are computed in float64 and rounded once, so that the fingerprint is the same on any machine.
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
