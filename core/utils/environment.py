"""Is the environment there? Uses nothing beyond the standard library, so that it can answer when it is not."""

import importlib.util
import os
import sys

MODULES = (
    *("torch", "accelerate", "tyro", "safetensors", "numpy", "scipy", "PIL", "roma", "plyfile", "av"),
    *("tensorboard", "tqdm", "jaxtyping"),
)
"""What `requirements.txt` installs, by the names under which it is imported."""


def require() -> None:
    """Leave with status 2 and one line if the program cannot run here; else prepare for the other imports.

    Entry points call it before these.
    """
    if sys.version_info < (3, 10):  # noqa: UP036 - who runs an older Python is whom this message is for
        _leave("Python 3.10 or newer is needed, this is {}.{}".format(*sys.version_info))
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        _leave("missing " + ", ".join(missing))
    wait_asleep()
    fuse_products()


def wait_asleep() -> None:
    """Let PyTorch's CPU threads sleep while they wait for each other; to be called before PyTorch is imported.

    By default they spin. Where something else runs on the same cores (data loading is enough), every parallel loop then
    lasts until the spinning thread's time slice is over: drawing a picture took 20 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def fuse_products() -> None:
    """Let Triton round a product and a sum once, as it always did and as our kernels are timed; before it is imported.

    From Triton 3.10 on that has to be asked for, and 3.9 warns of it.
    """
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


def _leave(reason: str) -> None:
    remedy = "run `bash scripts/setup.sh` once, then `source .venv/bin/activate`"
    sys.stderr.write(f"{reason}: {remedy} (or pip install -r requirements.txt)\n")
    raise SystemExit(2)
