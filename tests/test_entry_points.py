"""What entry points do when they cannot start, or when the user can mend something."""

import importlib.util
import os
import subprocess
import sys

import pytest

from core.utils import environment
from core.utils.cli import run
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY


def test_input_errors_become_one_line(capsys):
    def main():
        raise InputError("a.npz: broken\n  in two lines")

    with pytest.raises(SystemExit) as left:
        run(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: a.npz: broken in two lines\n"


def test_a_place_that_cannot_be_written_becomes_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as left:
        run((tmp_path / "file" / "results").mkdir)
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path / 'file' / 'results'}: ") and message.count("\n") == 1


def test_bugs_keep_their_traceback():
    def main():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run(main)


def test_missing_packages_are_named_with_the_remedy(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "av") else find(name))
    with pytest.raises(SystemExit) as left:
        environment.require()
    message = capsys.readouterr().err
    assert left.value.code == 2
    assert message.startswith("missing torch, av: ") and "setup.sh" in message and message.count("\n") == 1


def test_scripts_say_so_in_a_bare_python():
    """-S leaves the installed packages out."""
    script = REPOSITORY / "vertex_connectivity.py"
    done = subprocess.run([sys.executable, "-S", str(script)], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 2
    assert done.stderr.startswith("missing torch, ") and done.stderr.count("\n") == 1


def test_threads_sleep_while_they_wait_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    environment.require()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    environment.require()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
