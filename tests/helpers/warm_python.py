"""Python processes that start as forks of the test process, which has imported PyTorch already.

Each start of a script costs seconds of imports, and a run of two ranks or of a pool has several. Inside
`fork_python_starts`, `subprocess` and the start method `spawn` of `multiprocessing` fork instead of executing
`sys.executable`, also in these forks. Everything else is as in a new interpreter: arguments, environment, working
directory, pipes, sessions, signals, and what travels by pickling. Not for tests of imports, of options of the
interpreter or of memory.
"""

import gc
import multiprocessing.resource_tracker
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from pathlib import Path
from typing import NoReturn

import pytest
from forked_script import end_openmp_threads, run_forked

TIMEOUT = 240.0
"""Seconds after which a process ends with the stacks of its threads in stderr."""


@pytest.fixture
def warm_python(monkeypatch) -> None:
    """For the test: Python processes start as forks."""
    fork_python_starts(monkeypatch.setattr)


def fork_python_starts(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Let `subprocess` and `multiprocessing` fork where they would start this interpreter.

    Args:
        replace: Sets an attribute; by default for good, as for `prepare` of `forked_script.run_script`.
    """
    if subprocess.Popen._execute_child is _EXECUTE:  # not in a fork of a process that has replaced it
        replace(subprocess.Popen, "_execute_child", _execute_child)
        replace(util, "spawnv_passfds", _spawnv_passfds)


_EXECUTE, _SPAWN = subprocess.Popen._execute_child, util.spawnv_passfds


def _execute_child(
    self: subprocess.Popen, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others
) -> None:
    """Replace the method of `subprocess.Popen` that starts a process."""
    _, _, shell, *pipes, _, _, _, _, _, new_session = others[:15]
    stdin, _, _, stdout, _, stderr = pipes
    command = (
        [] if shell or executable is not None or isinstance(args, (str, bytes)) else _program([*map(os.fsdecode, args)])
    )
    if not command:
        _EXECUTE(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others)
        return

    def prepare() -> None:
        for number, own in ((stdin, 0), (stdout, 1), (stderr, 2)):
            if number != -1:
                os.dup2(number, own)
        if new_session:
            os.setsid()
        if cwd is not None:
            os.chdir(cwd)
        if preexec_fn is not None:
            preexec_fn()

    self.pid = _fork(command, prepare, pass_fds, env)
    self._child_created = True
    self._close_pipe_fds(*pipes)


def _spawnv_passfds(path: bytes | str, args: Sequence[bytes | str], passfds: Sequence[int]) -> int:
    """Replace the function that starts the processes of `spawn`. The tracker of resources starts as usual."""
    command = _program([*map(os.fsdecode, args)])
    if not command or "resource_tracker" in " ".join(command):
        return _SPAWN(path, args, passfds)
    return _fork(command, lambda: None, passfds, None)


def _program(command: Sequence[str]) -> list[str]:
    """What follows the interpreter and its harmless options; empty for other programs and options."""
    rest = [*command[1:]]
    while rest[:1] in (["-u"], ["-B"]):
        rest.pop(0)
    if command[0] != sys.executable or not rest or (rest[0].startswith("-") and rest[0] not in ("-c", "-m")):
        return []
    return rest


def _fork(command: list[str], prepare: Callable[[], None], kept: Sequence[int], env: Mapping | None) -> int:
    """Fork, and run the program of a command in the new process, whose id is returned."""
    end_openmp_threads()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        _run(command, prepare, kept, env)
    return process


def _run(command: list[str], prepare: Callable[[], None], kept: Sequence[int], env: Mapping | None) -> NoReturn:
    def prepare_all() -> None:
        gc.freeze()
        if env is not None:
            os.environ.clear()
            os.environ.update({os.fsdecode(key): os.fsdecode(value) for key, value in env.items()})
        prepare()
        folder = Path(command[0]).resolve().parent if command[0] not in ("-c", "-m") else Path.cwd()
        sys.path[:0] = ["" if command[0] == "-c" else str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        _detach_files(kept)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        multiprocessing.resource_tracker._resource_tracker.__init__()
        if "accelerate.state" in sys.modules:
            state = sys.modules["accelerate.state"]
            state.AcceleratorState._reset_state(reset_partial_state=True)
            state.GradientState._reset_state()

    run_forked(command, prepare_all, TIMEOUT)


def _detach_files(kept: Sequence[int]) -> None:
    """Connect files of the parent to nothing. They are not closed: objects of the parent own their numbers."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/dev/fd"):  # noqa: PTH208
        number = int(name)
        if number > 2 and number not in (*kept, nothing) and Path(f"/dev/fd/{name}").exists():
            os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
