"""Files of tensors: readable by the package `safetensors`, and equal for equal content."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from warm_python import fork_python_starts

from smpl_renderer.files import REPOSITORY
from smpl_renderer.tensor_files import save_tensors

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]


def test_the_package_reads_what_was_written(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {str(dtype): (100 * torch.rand(3, 5, generator=generator)).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "é": torch.ones(1)}
    tensors["transposed"] = torch.rand(4, 2, generator=generator).T
    metadata = {"b": '{"a": "\n"}', "a": "ü\x7f"}
    save_tensors(tmp_path / "a", tensors | {"numpy": np.arange(3, dtype=np.uint16)}, metadata)
    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == metadata
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor) and file.get_tensor(name).dtype == tensor.dtype
        assert file.get_tensor("numpy").tolist() == [0, 1, 2]
    save_tensors(tmp_path / "b", {"numpy": np.arange(3, dtype=np.uint16)} | tensors, dict(reversed(metadata.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


WRITE = """
import sys
from pathlib import Path
import torch
from core.avatar.avatar import Avatar
from core.avatar.file import save_avatar
from core.checkpoint import save_checkpoint
from core.model.hgg import HumanGaussianGraph
from scripts.synthetic.fits import repeatable_pickle
from smpl_renderer.body_files import STANDIN_BODY, load_body
from core.options import ModelOptions
from helpers.tiny_network import TINY_UNET
folder, body = Path(sys.argv[1]), load_body(STANDIN_BODY)
torch.manual_seed(0)
save_checkpoint(folder / "model.safetensors", HumanGaussianGraph(ModelOptions(unet=TINY_UNET), body))
n, vectors = 5, torch.rand(5, 4)
save_avatar(folder / "avatar.safetensors", Avatar(
    offsets=vectors[:, :3], quats=vectors, scales=vectors[:, :3], opacities=vectors[:, 0], colors=vectors[:, :3],
    betas=vectors[0], vertex_ids=torch.arange(5), body=body.fingerprint))
padding = [torch.empty(int(sys.argv[2]))]
shared = torch.rand(4, 3)
(folder / "fit.pkl").write_bytes(repeatable_pickle({"a": torch.rand(2, 3, 3), "b": shared, "c": shared[1:], "d": None}))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folders of two processes that write the same content, with other hashes and addresses."""
    folders = []
    for seed in ("1", "2"):
        folder = tmp_path_factory.mktemp("written")
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
        }
        command = [sys.executable, "-c", WRITE, str(folder), seed + "0000"]
        with pytest.MonkeyPatch.context() as patch:
            if seed == "1":  # a fork has the hashes of this process
                fork_python_starts(patch.setattr)
            subprocess.run(command, check=True, env=environment)
        folders.append(folder)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "avatar.safetensors", "fit.pkl"])
def test_equal_runs_write_equal_bytes(written, name):
    first, second = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in written)
    assert first == second


@pytest.mark.slow
def test_repeatable_pickles_are_read_as_others(written):
    from smpl_renderer.pickles import read_fit_pickle

    content = read_fit_pickle(written[0] / "fit.pkl")
    assert content["a"].shape == (2, 3, 3) and np.array_equal(content["b"][1:], content["c"])
