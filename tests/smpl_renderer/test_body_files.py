"""Files of body models, and the search for them."""

import pickle

import numpy as np
import pytest
import scipy.sparse

from smpl_renderer import body_files
from smpl_renderer.body_files import find_body, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError


@pytest.fixture
def toy_arrays(make_toy_arrays):
    """Arrays with as many joints as SMPL."""
    return make_toy_arrays(num_joints=24)


@pytest.fixture
def toy_body(toy_arrays):
    return BodyModel(toy_arrays, name="toy")


def write_pickle(path, arrays, chumpy=None):
    """Write a file like SMPL's: a sparse regressor, strings among the arrays, and chumpy objects if given."""
    content = dict(arrays, bs_type="lrotmin", bs_style="lbs")
    content["J_regressor"] = scipy.sparse.csc_matrix(arrays["J_regressor"].astype(np.float64))
    if chumpy is not None:
        shapedirs = arrays["shapedirs"].astype(np.float64)
        many = np.concatenate([np.ones_like(shapedirs), shapedirs], -1)
        chosen = np.arange(many.size).reshape(many.shape)[..., shapedirs.shape[-1] :]
        content["shapedirs"] = chumpy.Select(a=chumpy.Ch(x=many), idxs=chosen.ravel(), preferred_shape=chosen.shape)
        content["v_template"] = chumpy.Ch(x=arrays["v_template"].astype(np.float64))
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_every_format_gives_the_same_body(tmp_path, toy_body, toy_arrays, chumpy):
    np.savez(tmp_path / "body.npz", **toy_arrays)
    files = [
        tmp_path / "body.npz",
        write_pickle(tmp_path / "plain.pkl", toy_arrays),
        write_pickle(tmp_path / "chumpy.pkl", toy_arrays, chumpy),
    ]
    for path in files:
        loaded = load_body(path)
        assert loaded.fingerprint == toy_body.fingerprint, path
        assert loaded.name == path.stem
        assert loaded.parents == toy_body.parents == (-1, 0, 1, 1, *range(3, 23))


def test_only_the_first_10_shape_components_are_used(toy_body, make_toy_arrays):
    many = BodyModel(make_toy_arrays(num_betas=300, num_joints=24), name="many")
    assert many.num_betas == 10
    assert many.fingerprint == toy_body.fingerprint


@pytest.mark.parametrize("name", ["v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights"])
def test_fingerprint_depends_on_every_array(toy_body, toy_arrays, name):
    changed = toy_arrays[name].copy()
    changed.flat[0] += 1
    assert BodyModel({**toy_arrays, name: changed}, name="other").fingerprint != toy_body.fingerprint


@pytest.fixture
def smpl(tmp_path, monkeypatch, toy_arrays):
    """A body at the path where SMPL is expected."""
    paths = (tmp_path / "SMPL_NEUTRAL.pkl", tmp_path / "SMPL_NEUTRAL.npz")
    monkeypatch.setattr(body_files, "SMPL_FILES", paths)
    return write_pickle(paths[0], toy_arrays)


def test_find_body_by_fingerprint(smpl, body, toy_body, tmp_path):
    assert find_body(body.fingerprint).name == "standin_body"  # although SMPL is present
    assert find_body(toy_body.fingerprint).name == "SMPL_NEUTRAL"
    assert find_body(None).name == "SMPL_NEUTRAL"
    with pytest.raises(InputError, match=r"0123456789abcdef.*--body"):
        find_body("0123456789abcdef")


def test_find_body_prefers_the_given_file(smpl, body, toy_body, tmp_path):
    elsewhere = smpl.rename(tmp_path / "elsewhere.pkl")
    assert find_body(toy_body.fingerprint, elsewhere).name == "elsewhere"
    assert find_body(None, elsewhere).name == "elsewhere"
    with pytest.raises(InputError, match=rf"elsewhere\.pkl.*{body.fingerprint}"):
        find_body(body.fingerprint, elsewhere)


def test_find_body_without_smpl(smpl, body):
    smpl.unlink()
    assert find_body(body.fingerprint).name == "standin_body"
    with pytest.raises(InputError, match=r"SMPL_NEUTRAL\.pkl"):
        find_body(None)


def test_python_objects_in_an_npz_are_ignored(tmp_path, toy_body, toy_arrays):
    np.savez(tmp_path / "body.npz", **toy_arrays, bs_style=np.array(["lbs", None], dtype=object))
    assert load_body(tmp_path / "body.npz").fingerprint == toy_body.fingerprint


def test_bodies_with_other_joints_are_refused(tmp_path, make_toy_arrays):
    np.savez(tmp_path / "smplx.npz", **make_toy_arrays(num_joints=55))
    with pytest.raises(InputError, match=r"smplx\.npz: has 55 joints"):
        load_body(tmp_path / "smplx.npz")


def test_errors_name_the_broken_file(tmp_path, toy_arrays):
    with pytest.raises(InputError, match=r"none\.npz: no such"):
        load_body(tmp_path / "none.npz")

    (tmp_path / "model.obj").touch()
    with pytest.raises(InputError, match=r"model\.obj: .*\.npz or \.pkl"):
        load_body(tmp_path / "model.obj")

    np.savez(tmp_path / "whole.npz", **toy_arrays)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"short\.npz: cannot be read"):
        load_body(tmp_path / "short.npz")

    np.savez(tmp_path / "lacking.npz", v_template=toy_arrays["v_template"])
    with pytest.raises(InputError, match=r"lacking\.npz: .*lacks f"):
        load_body(tmp_path / "lacking.npz")
