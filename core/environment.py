"""Is the environment there? Uses nothing beyond the standard library, so that it can answer when it is not."""

import importlib.util
import sys

MODULES = (
    *("torch", "accelerate", "tyro", "safetensors", "numpy", "scipy", "PIL", "roma", "plyfile", "av"),
    *("tensorboard", "tqdm", "jaxtyping"),
)
"""What `requirements.txt` installs, by the names under which it is imported."""


def require() -> None:
    """Leave with status 2 and one line if the program cannot run here.

    Entry points call it before their other imports.
    """
    if sys.version_info < (3, 10):  # noqa: UP036 - who runs an older Python is whom this message is for
        _leave("Python 3.10 or newer is needed, this is {}.{}".format(*sys.version_info))
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        _leave("missing " + ", ".join(missing))


def _leave(reason: str) -> None:
    remedy = "run `bash scripts/setup.sh` once, then `source .venv/bin/activate`"
    sys.stderr.write(f"{reason}: {remedy} (or pip install -r requirements.txt)\n")
    raise SystemExit(2)
