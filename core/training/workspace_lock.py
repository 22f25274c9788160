"""A lock on a workspace, so that two trainings do not write into the same files."""

import fcntl
import json
import logging
import os
import socket
from pathlib import Path
from typing import IO

from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

LOCK = ".training.lock"
"""Name of the lock file. It stays behind; a lock ends with its process, also if that is killed."""


def lock_workspace(workspace: Path) -> IO[str] | None:
    """Lock a workspace for this process, until the returned file is closed or the process ends.

    The lock is one of the file system (POSIX), which shared disks pass on to other machines, and which does not outlive
    its process. None if the file system has no locks.

    Raises:
        InputError: If another process trains in this workspace.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    path = workspace / LOCK
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = _describe(file.read(1000))
        file.close()
        raise InputError(
            f"{workspace}: another training runs there ({owner}); wait for it, or choose another --workspace"
        ) from error
    except OSError as error:
        file.close()
        logger.warning("%s: cannot be locked (%s); start only one training there", workspace, error.strerror)
        return None
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}) + "\n")
    file.flush()
    return file


def _describe(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {int(owner['process'])} on {owner['host']}"
    except (KeyError, TypeError, ValueError):
        return "its process is not recorded"
