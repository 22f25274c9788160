"""Check of the environment before anything else is imported; uses the standard library only.

The syntax is that of all versions from Python 2.7 on, so that each reports that it is too old.
"""

import os
import sys

# fmt: off
MODULES = (
    "torch", "accelerate", "tyro", "safetensors", "numpy", "scipy", "PIL", "roma", "plyfile", "av", "tensorboard",
    "tqdm", "jaxtyping",
)
# fmt: on
"""Packages of `requirements.txt`, by the names under which they are imported."""


def require():  # type: () -> None
    """Exit with status 2 and one line if a package is missing; else set variables for the imports that follow.

    Entry points call it before other imports. An interruption of these ends in one line, too.
    """
    _open_closed_streams()
    if sys.version_info < (3, 10):  # noqa: UP036 - the message is for older versions
        _exit("Python 3.10 or newer is needed, this is {}.{}".format(*sys.version_info))
    import importlib.util

    sys.excepthook = _report_interruption
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        _exit("missing " + ", ".join(missing))
    use_passive_waiting()
    enable_fused_multiply_add()


def use_passive_waiting():  # type: () -> None
    """Let PyTorch's CPU threads sleep while they wait for each other; call before PyTorch is imported.

    By default they spin. If other processes use the same cores, such as data loading, every parallel loop then lasts
    until the time slice of a spinning thread ends: rendering an image took 20 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def enable_fused_multiply_add():  # type: () -> None
    """Let Triton fuse a product and a sum, with one rounding, as before version 3.10; call before it is imported.

    From Triton 3.10 on, fusion is off by default, and 3.9 warns about it. The kernels are timed with fusion.
    """
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


def _open_closed_streams():  # type: () -> None
    """Open streams that were closed before the start (`>&-`); the next file that is opened would take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - Python 2.7 has no pathlib


def _report_interruption(kind, error, trace):  # type: (type, BaseException, object) -> None
    """Report Ctrl-C in one line, other errors as usual; Python then exits with the status of the signal."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _exit(reason):  # type: (str) -> None
    remedy = "run `bash scripts/setup.sh` once, then `source .venv/bin/activate`"
    sys.stderr.write(reason + ": " + remedy + " (or pip install -r requirements.txt)\n")
    raise SystemExit(2)
