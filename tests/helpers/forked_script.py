"""Run a script of the project in a fork of the test process, which has imported PyTorch already."""

import ctypes
import faulthandler
import logging
import multiprocessing.process
import multiprocessing.util
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
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
        timeout: Seconds after which the process ends with status 1, and the stacks of its threads in stderr.
    Returns:
        Exit status (negative for a signal), stdout and stderr.
    """
    _end_openmp_threads()
    for thread in threading.enumerate():  # of a compiler, whose locks would stay closed in the fork
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = os.fork()
        if process == 0:
            argv = [str(REPOSITORY / command[0]), *map(str, command[1:])]
            _run_in_child(argv, cwd, prepare, finish, timeout, stdout, stderr)
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


def _end_openmp_threads() -> None:
    """End the threads of GNU's OpenMP, which PyTorch uses: a fork would wait for them, and does not have them."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    for library in {line.split()[-1] for line in lines if "libgomp" in line}:
        ctypes.CDLL(library).omp_pause_resource_all(OMP_PAUSE_HARD)


def _run_in_child(argv: list[str], cwd: Path, prepare, finish, timeout, stdout, stderr) -> NoReturn:
    status = 1
    try:
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        sys.excepthook = sys.__excepthook__
        logging.getLogger().handlers.clear()
        warnings.resetwarnings()
        multiprocessing.util._finalizer_registry.clear()  # those of the test process
        multiprocessing.process._children.clear()
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        os.chdir(cwd)
        sys.argv = argv
        prepare()
        faulthandler.dump_traceback_later(timeout, exit=True)  # after `prepare`: it starts a thread
        try:
            runpy.run_path(argv[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
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
