"""The folder of the repository, and files that are written completely or not at all."""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smpl_renderer.leftovers import remove_leftovers, temporary_mark

REPOSITORY = Path(__file__).resolve().parent.parent
"""Root folder of the repository, for files that are shipped with it."""
MAX_NAME_BYTES = 255
MIN_FREE_BYTES = 1 << 16
"""Free space below which a failure of PyTorch's writer counts as that of a full disk."""
WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""Errors of writing, which carry no path."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    The temporary name keeps the suffix, by which writers choose the format. The `with` block may write a file or a
    folder; a folder replaces an existing one. A file has the mode of a new file, whatever mode its writer has given it,
    and temporary files that killed processes have left in the folder are removed.

    Raises:
        OSError: If the file system refuses it, with the number of the error and `path`, whatever a writer has raised.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent.absolute())
    unique = temporary_mark()
    temporary = path.with_name(_hidden_name(path.stem, f".{unique}{path.suffix}"))
    try:
        yield temporary
        _set_usual_mode(temporary)
        if temporary.is_dir() and path.is_dir():
            _replace_folder(temporary, path, path.with_name(_hidden_name(path.name, f".{unique}.old")))
        else:
            temporary.replace(path)
    except Exception as error:
        if (refusal := _refusal(error, path, temporary)) is not None:
            raise refusal from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _set_usual_mode(path: Path) -> None:
    """Give a file that only its owner can read, as writers with temporary files leave it, the mode of a new file."""
    if path.is_dir() or stat.S_IMODE(path.stat().st_mode) & 0o077:
        return
    probe = path.with_name(_hidden_name(path.stem, f".{temporary_mark()}"))
    # The mask of modes can only be read by setting it, for all threads.
    number = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(number).st_mode)
    finally:
        os.close(number)
        probe.unlink()
    path.chmod(mode)


def _hidden_name(name: str, end: str) -> str:
    """A name that begins with a dot; as much of `name` as fits into the length that file systems allow."""
    room = MAX_NAME_BYTES - 1 - len(os.fsencode(end))
    while name and len(os.fsencode(name)) > room:
        name = name[:-1]
    return f".{name}{end}"


def _refusal(error: Exception, path: Path, temporary: Path) -> OSError | None:
    """The file system's error behind that of a writer, about `path`; None if it is another error."""
    if isinstance(error, OSError):
        if error.errno in WRITE_ERRORS and str(temporary) in os.fsdecode(error.filename2 or ""):
            return OSError(error.errno, os.strerror(error.errno), str(path))  # of a copy, which names the source first
        has_other_path = error.filename is not None and str(temporary) not in os.fsdecode(error.filename)
        if error.errno is None or has_other_path or (error.filename is None and error.errno not in WRITE_ERRORS):
            return None
        return OSError(error.errno, os.strerror(error.errno), str(path))
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return OSError(int(match[1]), os.strerror(int(match[1])), str(path))
    if isinstance(error, RuntimeError) and re.search(r"inline_container|PytorchStreamWriter", str(error)):
        is_full = shutil.disk_usage(path.parent).free < MIN_FREE_BYTES
        number = errno.ENOSPC if is_full else errno.EIO  # PyTorch's writer does not report it
        return OSError(number, os.strerror(number), str(path))
    return None


def _replace_folder(new: Path, path: Path, aside: Path) -> None:
    """Replace a folder, which is renamed to `aside` first: a rename cannot overwrite a folder that is not empty."""
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside)
