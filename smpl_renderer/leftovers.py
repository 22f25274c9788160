"""Temporary files and folders, named so that those of killed processes can be recognised and removed."""

import functools
import hashlib
import os
import re
import shutil
import socket
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path

_MARK = re.compile(r"\.tmp-([0-9a-f]{6})-([0-9a-f]+)-[0-9a-f]{6}(\.|$)")
_EARLIER = re.compile(r"\.tmp[0-9A-Za-z]{6}")
"""Temporary files of the package `safetensors`, by which earlier versions wrote."""
_FORMATS = (b"human-gaussian-graph", b"hgg-avatar")
"""One of these is near the start of such a file, if it is one of this program."""
OTHER_HOST_SECONDS = 24 * 3600.0
"""Age from which a temporary file of another machine or container is taken for a leftover; writing takes minutes."""


def temporary_mark() -> str:
    """Part of the name of a temporary file: where process numbers are valid, the process, and random digits."""
    return f"tmp-{_host()}-{os.getpid():x}-{uuid.uuid4().hex[:6]}"


@functools.lru_cache(maxsize=256)
def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that have ended, once per folder and process.

    A file is a leftover if its name holds a mark of this program and no such process runs, or only one that began after
    the file was last changed. Processes of other machines cannot be seen: files of theirs are removed after a day, and
    folders are kept. Those of earlier versions have no mark and are removed after a day, too.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.startswith(".") and (match := _MARK.search(path.name)):
                with suppress(OSError):
                    _remove_if_left(path, match[1], int(match[2], 16))
            elif _EARLIER.fullmatch(path.name):
                with suppress(OSError):
                    _remove_if_of_earlier_version(path)


def _remove_if_left(path: Path, host: str, process: int) -> None:
    changed = path.lstat().st_mtime
    is_folder = path.is_dir() and not path.is_symlink()
    if host != _host():
        is_left = not is_folder and time.time() - changed > OTHER_HOST_SECONDS
    else:
        is_left = not _runs(process, changed)
    if is_left and is_folder:
        shutil.rmtree(path)
    elif is_left:
        path.unlink()


def _remove_if_of_earlier_version(path: Path) -> None:
    status = path.lstat()
    if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > OTHER_HOST_SECONDS:
        with path.open("rb") as file:
            head = file.read(2**16)
        if any(name in head for name in _FORMATS):
            path.unlink()


def _runs(process: int, changed: float) -> bool:
    """True if a process of this number runs and began before a time in seconds since the epoch."""
    try:
        import psutil  # rarely needed
    except ImportError:  # it comes with accelerate, for training
        return True
    try:
        running = psutil.Process(process)
        return running.status() != psutil.STATUS_ZOMBIE and running.create_time() < changed + 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # of another user, for example
        return True


@functools.cache
def _host() -> str:
    """Six digits that stand for the machine and, in containers, for the processes that are visible there."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # only Linux has it
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:6]
