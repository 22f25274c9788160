"""Check of the environment before anything else is imported; uses the standard library only."""

import importlib.util
import os
import sys

MODULES = (
    *("torch", "accelerate", "tyro", "safetensors", "numpy", "scipy", "PIL", "roma", "plyfile", "av"),
    *("tensorboard", "tqdm", "jaxtyping"),
)
"""Packages of `requirements.txt`, by the names under which they are imported."""


def require() -> None:
    """Exit with status 2 and one line if a package is missing; else set variables for the imports that follow.

    Entry points call it before other imports.
    """
    if sys.version_info < (3, 10):  # noqa: UP036 - the message is for older versions
        _exit("Python 3.10 or newer is needed, this is {}.{}".format(*sys.version_info))
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        _exit("missing " + ", ".join(missing))
    use_passive_waiting()
    enable_fused_multiply_add()


def use_passive_waiting() -> None:
    """Let PyTorch's CPU threads sleep while they wait for each other; call before PyTorch is imported.

    By default they spin. If other processes use the same cores, such as data loading, every parallel loop then lasts
    until the time slice of a spinning thread ends: rendering an image took 20 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def enable_fused_multiply_add() -> None:
    """Let Triton fuse a product and a sum, with one rounding, as before version 3.10; call before it is imported.

    From Triton 3.10 on, fusion is off by default, and 3.9 warns about it. The kernels are timed with fusion.
    """
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


def _exit(reason: str) -> None:
    remedy = "run `bash scripts/setup.sh` once, then `source .venv/bin/activate`"
    sys.stderr.write(f"{reason}: {remedy} (or pip install -r requirements.txt)\n")
    raise SystemExit(2)
