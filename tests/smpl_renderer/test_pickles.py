"""Pickles of foreign origin: what is read, and that no code in them runs."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from smpl_renderer.errors import InputError
from smpl_renderer.pickles import read_fit_pickle, read_float_pickle, read_smpl_pickle


class RunsCommand:
    """Pickles as a call of `os.system` that creates the file `proof`."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def pickle_like_python_2(content: object) -> bytes:
    """Pickle by protocol 2 with the module names of Python 2, old numpy and old scipy."""
    stream = pickle.dumps(content, protocol=2)
    for new, old in (("scipy.sparse._csc", "scipy.sparse.csc"), ("numpy._core", "numpy.core")):
        stream = stream.replace(f"c{new}".encode(), f"c{old}".encode())
    return stream


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_smpl_pickles_with_chumpy_and_sparse_matrices_are_read(tmp_path, chumpy, protocol):
    generator = np.random.default_rng(0)
    shapedirs = generator.normal(size=(5, 3, 7))
    few = np.arange(shapedirs.size).reshape(shapedirs.shape)[..., :4]
    regressor = generator.random((2, 5)) * (generator.random((2, 5)) < 0.5)
    content = {
        "v_template": chumpy.Ch(x=np.asfortranarray(shapedirs[..., 0])),
        "shapedirs": chumpy.Select(a=chumpy.Ch(x=shapedirs), idxs=few.ravel(), preferred_shape=few.shape),
        "J_regressor": scipy.sparse.csc_matrix(regressor),
        "f": np.array([[0, 1, 2]], dtype=">u4"),
        "bs_type": "lrotmin",
    }
    path = tmp_path / "body.pkl"
    path.write_bytes(pickle_like_python_2(content) if protocol == 2 else pickle.dumps(content, protocol=protocol))

    arrays = read_smpl_pickle(path)

    assert set(arrays) == {"v_template", "shapedirs", "J_regressor", "f"}
    np.testing.assert_array_equal(arrays["v_template"], shapedirs[..., 0])
    np.testing.assert_array_equal(arrays["shapedirs"], shapedirs[..., :4])
    np.testing.assert_array_equal(arrays["J_regressor"], regressor)
    np.testing.assert_array_equal(arrays["f"], [[0, 1, 2]])


def test_arrays_in_python_2_strings_are_read(tmp_path):
    """Python 2 wrote the bytes of an array as a `str`, which Python 3 decodes to text."""
    array = np.array([1.5, -2.0, 3e7], dtype="<f8")
    raw = array.tobytes()
    stream = (
        b"\x80\x02}U\x01xcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x03tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(stream)
    np.testing.assert_array_equal(read_smpl_pickle(path)["x"], array)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_fits_of_mvhumannet_are_read(tmp_path, protocol):
    fit = {
        "global_orient": torch.eye(3).expand(1, 1, 3, 3).contiguous(),
        "body_pose": torch.randn(1, 23, 3, 3).transpose(-1, -2),  # not contiguous
        "full_pose": torch.randn(30)[3:12].reshape(1, 1, 3, 3),  # a window of a larger storage
        "faces": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "transl": None,
        "v_shaped": None,
    }
    path = tmp_path / "000000.pkl"
    path.write_bytes(pickle.dumps(fit, protocol=protocol))

    read = read_fit_pickle(path)

    assert list(read) == list(fit)
    for key in ("global_orient", "body_pose", "full_pose"):
        torch.testing.assert_close(read[key], fit[key], rtol=0, atol=0)
    np.testing.assert_array_equal(read["faces"], fit["faces"])
    assert read["faces"].dtype == np.uint32
    assert read["transl"] is None and read["v_shaped"] is None


@pytest.mark.parametrize("number", [120 / 65, 2, np.float64(100 / 65), np.float32(0.5)])
def test_single_numbers_are_read(tmp_path, number):
    path = tmp_path / "camera_scale.pkl"
    path.write_bytes(pickle.dumps(number))
    assert read_float_pickle(path) == number


@pytest.mark.parametrize("content", ["1.5", None, True, [1.0], np.ones(2)])
def test_other_values_than_a_number_are_refused(tmp_path, content):
    path = tmp_path / "camera_scale.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"camera_scale\.pkl.*number"):
        read_float_pickle(path)


READERS = [read_smpl_pickle, read_fit_pickle, read_float_pickle]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_refused_by_name(tmp_path, reader, protocol):
    proof, path = tmp_path / "ran", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"vertices": RunsCommand(proof)}, protocol=protocol))
    with pytest.raises(InputError, match=r"evil\.pkl.*refused.*\b(posix|nt)\.system"):
        reader(path)
    assert not proof.exists()


def test_malicious_inner_torch_stream_is_refused_by_name(tmp_path):
    """The outer pickle only calls `_load_from_bytes`; the command is in the bytes passed to it."""

    class Inner:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    proof, path, inner = tmp_path / "ran", tmp_path / "evil.pkl", io.BytesIO()
    torch.save(RunsCommand(proof), inner, _use_new_zipfile_serialization=False)
    path.write_bytes(pickle.dumps({"vertices": Inner()}, protocol=4))
    with pytest.raises(InputError, match=r"evil\.pkl.*refused.*\b(posix|nt)\.system"):
        read_fit_pickle(path)
    assert not proof.exists()


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "objects.pkl"
    path.write_bytes(pickle.dumps({"vertices": np.array([None, {}], dtype=object)}))
    with pytest.raises(InputError, match=r"objects\.pkl"):
        read_fit_pickle(path)


@pytest.mark.parametrize("reader", READERS)
def test_truncated_pickles_are_refused(tmp_path, reader):
    whole = pickle.dumps({"vertices": torch.ones(4), "f": np.ones(5)}, protocol=4)
    path = tmp_path / "short.pkl"
    for length in (0, 1, 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"short\.pkl"):
            reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_missing_files_are_refused(tmp_path, reader):
    with pytest.raises(InputError, match=r"none\.pkl: no such file"):
        reader(tmp_path / "none.pkl")


def test_other_values_than_a_dictionary_are_refused(tmp_path):
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match=r"list\.pkl.*expected"):
        read_smpl_pickle(path)


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch before 1.6"])
def test_parameters_and_files_of_torch_are_read(tmp_path, kind):
    fit = {"betas": torch.nn.Parameter(torch.arange(3.0)), "transl": torch.ones(1, 3), "scale": 1.5, "poses": [[1, 2]]}
    path = tmp_path / "fit.pkl"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(fit))
    else:
        torch.save(fit, path, _use_new_zipfile_serialization=kind == "torch")
    read = read_fit_pickle(path)
    assert read["scale"] == 1.5 and read["poses"] == [[1, 2]]
    torch.testing.assert_close(read["betas"].detach(), torch.arange(3.0))


@pytest.mark.parametrize("is_new", [True, False])
def test_malicious_files_of_torch_are_refused_by_name(tmp_path, is_new):
    proof, path = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({"betas": RunsCommand(proof)}, path, _use_new_zipfile_serialization=is_new)
    with pytest.raises(InputError, match=r"evil\.pt.*refused.*\b(posix|nt)\.system"):
        read_fit_pickle(path)
    assert not proof.exists()
