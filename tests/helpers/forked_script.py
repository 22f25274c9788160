"""Run a script of the project in a fork of the test process, which has imported PyTorch already."""

import ctypes
import faulthandler
import logging
import multiprocessing.process
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from smpl_renderer.files import REPOSITORY

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
"""Flags of `unshare` in Linux's sched.h."""


OMP_PAUSE_HARD = 2
"""From OpenMP 5.0's `omp_pause_resource_t`."""


def run_script(
    *command: str | Path,
    cwd: Path = REPOSITORY,
    prepare: Callable[[], None] = lambda: None,
    finish: Callable[[], None] = lambda: None,
    timeout: float = 120,
) -> subprocess.CompletedProcess:
    """Run a script as `python SCRIPT ARGUMENTS` does, without the seconds of importing PyTorch.

    Not for tests of the start itself: modules are imported already, and memory is that of the test process.

    Args:
        command: Script, relative to the repository, and its arguments.
        cwd: Working directory.
        prepare: Called in the new process before the script.
        finish: Called in the new process after the script.
        timeout: Seconds after which the process ends by SIGALRM, with the stacks of its threads in stderr.
    Returns:
        Exit status (negative for a signal), stdout and stderr.
    """
    end_openmp_threads()
    for thread in threading.enumerate():  # of a compiler, whose locks would stay closed in the fork
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = os.fork()
        if process == 0:

            def prepare_all() -> None:
                os.dup2(stdout.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                os.chdir(cwd)
                prepare()

            run_forked([str(REPOSITORY / command[0]), *map(str, command[1:])], prepare_all, timeout, finish)
        _, status = os.waitpid(process, 0)
        stdout.seek(0)
        stderr.seek(0)
        output, errors = (file.read().decode(errors="surrogateescape") for file in (stdout, stderr))
    status = os.waitstatus_to_exitcode(status)
    return subprocess.CompletedProcess([*map(str, command)], status, output, errors)


def mount_small_disk(folder: Path, size: str) -> None:
    """Mount a file system of limited size at a folder, for this process and its children only.

    Raises:
        PermissionError: If namespaces of users or mounts are not allowed here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_MOUNTS):
        raise PermissionError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()):
        raise PermissionError(ctypes.get_errno(), "mount")


def end_openmp_threads() -> None:
    """End the threads of GNU's OpenMP, which PyTorch uses: a fork would wait for them, and does not have them."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    for library in {line.split()[-1] for line in lines if "libgomp" in line}:
        ctypes.CDLL(library).omp_pause_resource_all(OMP_PAUSE_HARD)


def run_forked(
    command: list[str], prepare: Callable[[], None], timeout: float, finish: Callable[[], None] = lambda: None
) -> NoReturn:
    """Run a program in this process, which was just forked, and end the process with its exit status.

    Args:
        command: What follows `python`: a script, `-m` and a module, or `-c` and a text; and arguments.
        prepare: Called first; sets the standard files and the working directory.
        timeout: Seconds after which the process ends by SIGALRM, with the stacks of its threads in stderr.
        finish: Called after the program.
    """
    status = 1
    try:
        _open_standard_files()
        sys.excepthook = sys.__excepthook__
        logging.getLogger().handlers.clear()
        warnings.resetwarnings()
        multiprocessing.util._finalizer_registry.clear()  # those of the test process
        multiprocessing.process._children.clear()
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        prepare()
        _open_standard_files()
        faulthandler.register(signal.SIGALRM, chain=True)  # unlike a thread, an alarm keeps no further fork waiting
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            _run_program(command)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                sys.stderr.write(f"{end.code}\n")
        threading._shutdown()  # as at the end of an interpreter: pools of processes are ended
        multiprocessing.util._exit_function()
        finish()
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _open_standard_files() -> None:
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115


def _run_program(command: list[str]) -> None:
    """Run a program as the module `__main__`."""
    kind, rest = (command[0], command[1:]) if command[0] in ("-c", "-m") else ("", command)
    sys.argv = [kind, *rest[1:]] if kind == "-c" else rest
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(rest[0], run_name="__main__")
