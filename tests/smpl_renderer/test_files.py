"""Files and folders are written completely or not at all, and a failure keeps what they would replace."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from smpl_renderer.files import REPOSITORY, atomic_path
from smpl_renderer.leftovers import remove_leftovers, temporary_mark


def test_a_file_replaces_another_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with atomic_path(path) as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text(text)
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_replaces_another_one(tmp_path):
    path = tmp_path / "results"
    for name in ("old", "new"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_keeps_the_previous_content(tmp_path, folder):
    path = tmp_path / "kept"
    path.mkdir() if folder else path.touch()
    if folder:
        (path / "inside").touch()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "half").touch()
        else:
            temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    if folder:
        assert [p.name for p in path.iterdir()] == ["inside"]
    else:
        assert path.read_text() == ""


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_mode_of_new_files(tmp_path, umask, mode):
    """Also those of writers that create files for their owner only."""
    before = os.umask(umask)
    try:
        for name, own in (("a", 0o666), ("b", 0o600)):
            with atomic_path(tmp_path / name) as temporary:
                os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, own))
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    finally:
        os.umask(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


KILLED = """
import os, signal, sys
from pathlib import Path
from smpl_renderer.files import REPOSITORY, atomic_path
from smpl_renderer.leftovers import remove_leftovers, temporary_mark
with atomic_path(Path(sys.argv[1])) as temporary:
    if sys.argv[2] == "folder":
        temporary.mkdir()
        (temporary / "inside").touch()
    else:
        temporary.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_leftovers_of_killed_processes_are_removed(tmp_path, kind):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.txt"), kind]
    assert subprocess.run(command, check=False, cwd=REPOSITORY).returncode == -signal.SIGKILL
    assert len([*tmp_path.iterdir()]) == 1
    with atomic_path(tmp_path / "b.txt") as temporary:
        temporary.touch()
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_other_hidden_files_are_kept(tmp_path):
    """Those of running processes, of other machines, and of other programs."""
    mark = temporary_mark()
    _, host, process, digits = mark.split("-")
    other_host = f"tmp-{'000000' if host != '000000' else '111111'}-{2**22 + 1:x}-{digits}"
    kept = [
        f".a.{mark}.txt",
        f".b.{other_host}.txt",
        ".tmpAB12cd",
        ".c.12345678.txt",
        f"d.tmp-{host}-{2**22 + 1:x}-{digits}",
    ]
    gone = [f".e.tmp-{host}-{2**22 + 1:x}-{digits}.txt", f".f.tmp-{host}-{process}-{digits}.txt", f".g.{other_host}"]
    for name in kept + gone:
        (tmp_path / name).touch()
    for name in gone[1:]:  # older than the process of that number; of another machine, of long ago
        os.utime(tmp_path / name, (1e9, 1e9))
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


def test_leftovers_of_earlier_versions_are_removed_after_a_day(tmp_path):
    """They were written by the package safetensors: `.tmp` and six characters, with this program's metadata."""
    head = b"\x40\0\0\0\0\0\0\0" + b'{"__metadata__":{"format":"hgg-avatar"}}'
    files = {".tmpaB3dE6": head, ".tmpzZ9yX8": b"of another program", ".tmpaB3dE6.ply": head, ".tmpQwErT1": head}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        if name != ".tmpQwErT1":
            os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == files.keys() - {".tmpaB3dE6"}
