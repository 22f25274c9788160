"""Check of the environment before anything else is imported; uses the standard library only.

The syntax is that of all versions from Python 2.7 on, so that each reports that it is too old.
"""

import os
import signal
import sys

# fmt: off
MODULES = (
    "torch", "accelerate", "tyro", "safetensors", "numpy", "scipy", "PIL", "roma", "plyfile", "av", "tensorboard",
    "tqdm", "jaxtyping",
)
# fmt: on
"""Packages of `requirements.txt`, by the names under which they are imported."""
LAUNCHED = "HGG_LAUNCHED"
"""Environment variable of the processes that `scripts/launch.py` starts; it reports signals itself."""


def require():  # type: () -> None
    """Exit with status 2 and one line if a package is missing; else set variables for the imports that follow.

    Entry points call it before other imports. A signal that stops these ends in one line, too.
    """
    require_python()
    import importlib.util

    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        _exit("missing " + ", ".join(missing))
    use_passive_waiting()
    enable_fused_multiply_add()


def require_python():  # type: () -> None
    """Exit with status 2 and one line in a version of Python that is too old; let signals end in one line."""
    _open_closed_streams()
    if sys.version_info < (3, 10):  # noqa: UP036 - the message is for older versions
        _exit("Python 3.10 or newer is needed, this is {}.{}".format(*sys.version_info))
    SIGNALS.handle()


class Signals(object):  # noqa: UP004 - also for Python 2.7
    """Ctrl-C and SIGTERM: one line and the exit status 128 + n, with SIGTERM as with Ctrl-C.

    While modules are imported, the process exits at once: after an exception some are half imported, and their errors
    name other reasons. While the program runs, an exception is raised, so that temporary files are removed.
    Processes that this one forks or spawns end without a line, and those of `scripts/launch.py`, which reports itself.
    """

    def __init__(self):  # type: () -> None
        self.process = os.getpid()
        self.received = 0
        """Number of the signal for which an exception has been raised."""
        self.is_raised = False

    def handle(self):  # type: () -> None
        """Set the handlers, except where a parent process has chosen others."""
        if _is_worker():  # the parent process ends it
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return
        for number, default in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            if signal.getsignal(number) == default:
                signal.signal(number, signal.SIG_DFL if LAUNCHED in os.environ else self._stop)
        sys.unraisablehook = self._report_unraisable

    def report(self):  # type: () -> int
        """Write the line of the signal that was received; the exit status is returned."""
        sys.stderr.write("stopped by SIGTERM\n" if self.received == signal.SIGTERM else "interrupted\n")
        return 128 + (self.received or signal.SIGINT)

    def _stop(self, number, _):  # type: (int, object) -> None
        if os.getpid() != self.process or _is_worker():
            if number == signal.SIGINT:  # handled by PyTorch, which reports a worker that was killed
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        if self.is_raised:
            raise KeyboardInterrupt
        os._exit(self.report())

    def _report_unraisable(self, details):  # type: (object) -> None
        """Exit where a signal arrives in a place that cannot raise, such as a finalizer; report other errors as usual.

        After a signal there may be errors of processes that it has stopped as well; they are not reported.
        """
        if issubclass(details.exc_type, KeyboardInterrupt) and os.getpid() == self.process:
            os._exit(self.report())
        if not self.received:
            sys.__unraisablehook__(details)


SIGNALS = Signals()


def _is_worker():  # type: () -> bool
    """True in a process that `multiprocessing` has started."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


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


def _exit(reason):  # type: (str) -> None
    remedy = "run `bash scripts/setup.sh` once, then `source .venv/bin/activate`"
    sys.stderr.write(reason + ": " + remedy + " (or pip install -r requirements.txt)\n")
    raise SystemExit(2)
