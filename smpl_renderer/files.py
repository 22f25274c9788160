"""The folder of the repository, and files that are written completely or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
"""Root folder of the repository, for files that are shipped with it."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    The temporary name keeps the suffix, by which writers choose the format. The `with` block may write a file or a
    folder; a folder replaces an existing one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = uuid.uuid4().hex[:8]
    temporary = path.with_name(f".{path.stem}.{unique}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            _replace_folder(temporary, path, path.with_name(f".{path.name}.{unique}.old"))
        else:
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _replace_folder(new: Path, path: Path, aside: Path) -> None:
    """Replace a folder, which is renamed to `aside` first: a rename cannot overwrite a folder that is not empty."""
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside)
