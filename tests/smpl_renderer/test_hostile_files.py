"""Small files that would take gigabytes or minutes: each is refused in two seconds and 300 MB, or is read."""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smpl_renderer.bounded_files import MAX_JSON_BYTES
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

FILES: dict[str, tuple[str, Callable[[Path], object]]] = {}
"""Readers (`module:function`) and writers of files by file name."""

FIT, BODY, NUMBER = (f"smpl_renderer.pickles:read_{kind}_pickle" for kind in ("fit", "smpl", "float"))
NPZ, JSON = "smpl_renderer.bounded_files:load_npz", "smpl_renderer.bounded_files:load_json"
CONNECTIVITY = "smpl_renderer.connectivity:load_connectivity"


def hostile(name: str, reader: str) -> Callable:
    def register(write: Callable[[Path], object]) -> Callable:
        FILES[name] = (reader, write)
        return write

    return register


PRIME = 2**61 - 1
"""Python's hash of whole numbers is their remainder by it."""


@hostile("keys.pkl", FIT)
def colliding_keys(path):
    items = b"".join(b"\x8a\x0b" + ((i + 1) * PRIME).to_bytes(11, "little") + b"K\x00" for i in range(60_000))
    path.write_bytes(b"\x80\x04}(" + items + b"u.")


@hostile("laughs.pkl", FIT)
def lists_of_the_same_lists(path):
    value = [0.5] * 110
    for _ in range(4):
        value = [value] * 110
    path.write_bytes(pickle.dumps({"betas": value}, 4))


@hostile("stride.pkl", FIT)
def tensors_without_strides(path):
    path.write_bytes(pickle.dumps({"betas": torch.zeros(1).expand(2**20, 2**10)}, 4))


@hostile("stride.pt", FIT)
def saved_tensors_without_strides(path):
    torch.save({"betas": torch.zeros(1).expand(2**20, 2**10)}, path)


@hostile("sparse.pt", FIT)
def sparse_tensors(path):
    torch.save({"betas": torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (2**20, 2**10))}, path)


@hostile("bomb.pt", FIT)
def compressed_tensors(path):
    torch.save({"betas": torch.zeros(10)}, path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, bytes(2**29) if name.endswith("data/0") else data)


@hostile("sparse.pkl", BODY)
def large_sparse_matrices(path):
    import scipy.sparse

    matrix = scipy.sparse.csc_matrix(np.eye(2))
    matrix._shape = (2**30, 2)
    path.write_bytes(pickle.dumps({"J_regressor": matrix}, 2))


@hostile("select.pkl", BODY)
def nested_chumpy(path):
    """Each level refers twice to the one below."""
    head = b"\x80\x02}U\x01x"
    select = b"ccopy_reg\n_reconstructor\n(cchumpy.reordering\nSelect\nc__builtin__\nobject\nNtR"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x03tcnumpy\ndtype\n(U\x02i8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x18" + np.zeros(3, "<i8").tobytes() + b"tb"
    )
    body = array + b"q\x01"
    for level in range(60):
        get = b"h" + bytes([level + 1])
        body += b"0" + select + b"}(U\x01a" + get + b"U\x04idxs" + get + b"ub" + b"q" + bytes([level + 2])
    path.write_bytes(head + body + b"s.")


@hostile("text.pkl", FIT)
def bytes_that_are_made_again_and_again(path):
    """A text of 1 MB, encoded a thousand times."""
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x00"
    encode = b"c_codecs\nencode\nq\x01"
    calls = b"".join(b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" for _ in range(1000))
    path.write_bytes(b"\x80\x02](" + text + encode + calls + b"e.")


@hostile("number.pkl", NUMBER)
def numbers_of_many_digits(path):
    path.write_bytes(b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".")


@hostile("bomb.npz", NPZ)
def compressed_zeros(path):
    np.savez_compressed(path, betas=np.zeros(2**26))


@hostile("header.npz", NPZ)
def arrays_larger_than_their_data(path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("betas.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


@hostile("deep.json", JSON)
def deep_json(path):
    path.write_text("[" * 200_000)


@hostile("large.json", JSON)
def large_json(path):
    with path.open("wb") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)


@hostile("lists.json", JSON)
def millions_of_lists(path):
    path.write_text("[" + "[]," * 9_000_000 + "[]]")


@hostile("zeros.json", "core.motion.files.containers:read_json")
@hostile("zeros.bvh", "core.motion.files.bvh:read_bvh")
@hostile("zeros.tree.pkl", "smpl_renderer.pickled_trees:read_tree")
def files_without_content(path):
    with path.open("wb") as stream:
        stream.truncate(2**29)


@hostile("keys.toml", "core.capture.importers.pose2sim:read_pose2sim")
def deep_keys(path):
    path.write_text(".".join(["matrix"] * 40_000) + " = 1\n")


@hostile("digits.json", JSON)
def json_of_many_digits(path):
    path.write_text("[" + "1" * 10**6 + "]")


@hostile("zero.json", JSON)
def a_device(path):
    path.symlink_to("/dev/zero")


@hostile("zero.pkl", NUMBER)
def another_device(path):
    path.symlink_to("/dev/zero")


@hostile("stride_connectivity.pt", CONNECTIVITY)
def neighbours_without_strides(path):
    index = torch.zeros(1, dtype=torch.int64).expand(2**20, 2**10)
    mask = torch.ones(1, dtype=torch.bool).expand(2**20, 2**10)
    one = torch.zeros(1, dtype=torch.int64)
    torch.save({"neighbors": index, "mask": mask, "crow": one, "col": one, "fingerprint": "a"}, path)


MEASURE = """
import importlib, json, resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from smpl_renderer.errors import InputError
import smpl_renderer.connectivity, smpl_renderer.pickles, torch
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for path, reader in json.loads(sys.argv[2]):
    module, function = reader.split(":")
    before, start, result = peak(), time.process_time(), "read"
    try:
        getattr(importlib.import_module(module), function)(Path(path))
    except InputError as error:
        result = str(error)
    print(json.dumps([path, result, time.process_time() - start, peak() - before]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, tuple[str, float, float]]:
    """Message, seconds and megabytes of each file, all read by one process."""
    folder = tmp_path_factory.mktemp("hostile")
    jobs = []
    for name, (reader, write) in FILES.items():
        write(folder / name)
        jobs.append((str(folder / name), reader))
    command = [sys.executable, "-c", MEASURE, str(REPOSITORY), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(jobs), done.stderr[-3000:]
    return {Path(path).name: tuple(outcome) for path, *outcome in lines}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused_soon(outcomes, name):
    result, seconds, megabytes = outcomes[name]
    assert seconds < 2 and megabytes < 300, (result, seconds, megabytes)
    if name != "select.pkl":  # sound, if each level is computed once
        assert name in result and "\n" not in result


def tampered(**changes) -> dict:
    index = torch.tensor([[0, 1], [1, 0]])
    sound = {"neighbors": index, "mask": index >= 0, "crow": torch.tensor([0, 1, 2]), "col": torch.tensor([1, 0])}
    return sound | {"fingerprint": "a"} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"neighbors": torch.tensor([[0, 9], [1, 0]])},
        {"neighbors": torch.tensor([[0, -1], [1, 0]])},
        {"neighbors": torch.tensor([[1, 0], [1, 0]])},
        {"neighbors": torch.tensor([[0.0, 1], [1, 0]])},
        {"neighbors": torch.tensor([0, 1])},
        {"mask": torch.ones(2, 3, dtype=torch.bool)},
        {"mask": torch.zeros(2, 2, dtype=torch.bool)},
        {"crow": torch.tensor([0, 2, 1])},
        {"crow": torch.tensor([0, 1, 3])},
        {"crow": torch.tensor([0, 2])},
        {"col": torch.tensor([2, 0])},
        {"col": torch.tensor([1.0, float("nan")])},
        {"fingerprint": 3},
        {"fingerprint": None},
        {"neighbors": torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.tensor([1]), (2, 2))},
    ],
)
def test_tampered_connectivity_is_refused(tmp_path, changes):
    from smpl_renderer.connectivity import load_connectivity

    torch.save(tampered(), tmp_path / "sound.pt")
    load_connectivity(tmp_path / "sound.pt")
    torch.save(tampered(**changes), tmp_path / "bent.pt")
    with pytest.raises(InputError, match=r"bent\.pt: holds no vertex neighbourhoods"):
        load_connectivity(tmp_path / "bent.pt")
