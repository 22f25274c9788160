"""The set-up script, in copies of the repository that need no network: the only requirement is pip."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path):
    """A folder with the set-up scripts, and a requirement that an empty environment meets."""
    repository = tmp_path / "a repository"  # a space in the path
    (repository / "scripts").mkdir(parents=True)
    for name in ("setup.sh", "check_requirements.py"):
        shutil.copy(ROOT / "scripts" / name, repository / "scripts")
    (repository / "requirements.txt").write_text("pip>=9  # every new environment has it\n")
    return repository


def source(repository, *, cwd=None, **environment):
    """Source the script as train.sh does, from a script with arguments, and print what it sets."""
    clean = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX", "HGG_DEV", "HGG_PIP_ARGS")}
    clean["PIP_NO_INDEX"] = "1"
    script = 'set -euo pipefail; source "$0"/scripts/setup.sh; echo "$PYTHON|$*|$PWD"'
    return subprocess.run(
        ["bash", "-c", script, str(repository), "--batch-size", "2"],
        cwd=cwd or repository,
        env=clean | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
    )


def fake_environment(folder, python=sys.executable):
    """An environment as the script expects it: a prefix with bin/python."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    return folder


@pytest.mark.slow
def test_installs_once_and_resumes_after_an_interruption(repository, tmp_path):
    requirements = repository / "requirements.txt"
    met = requirements.read_text()
    requirements.write_text(met + "no-such-distribution-xyz==1.0\n")
    broken = source(repository, cwd=tmp_path)
    assert broken.returncode == 2
    assert "run this again" in broken.stderr.splitlines()[-1]

    requirements.write_text(met)
    first = source(repository, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    python = repository / ".venv" / "bin" / "python"
    # The folder and the arguments of the caller are kept, and have no effect on the set-up.
    assert first.stdout.strip() == f"{python}|--batch-size 2|{tmp_path}"
    assert "downloads" in first.stderr

    # The second time pip is not run: this argument would make it fail.
    again = source(repository, HGG_PIP_ARGS="--no-such-option")
    assert again.returncode == 0 and again.stderr == ""

    # Changed requirements are installed.
    requirements.write_text(met + "# one more\n")
    changed = source(repository, HGG_PIP_ARGS="--no-such-option")
    assert changed.returncode == 2 and "no-such-option" in changed.stderr


def test_an_activated_environment_is_used(repository, tmp_path):
    (repository / "requirements.txt").write_text("pytest>=7\npluggy\n")
    prefix = fake_environment(tmp_path / "env")
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        result = source(repository, **{variable: prefix})
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{prefix}/bin/python|")
    assert not (repository / ".venv").exists()


def test_missing_packages_of_an_activated_environment_are_named(repository, tmp_path):
    (repository / "requirements.txt").write_text("pytest>=7\nno-such-distribution-xyz>=1\n")
    prefix = fake_environment(tmp_path / "env")
    result = source(repository, VIRTUAL_ENV=prefix, PATH="/nowhere-else:" + path_without_python(tmp_path))
    assert "lacks: no-such-distribution-xyz>=1." in result.stderr
    # There is no other Python on this PATH, which is reported next.
    assert result.returncode == 2
    assert "no Python 3.10 or newer" in result.stderr.splitlines()[-1]


def path_without_python(folder):
    """A PATH with the tools of the script and without Python."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "basename", "cat", "touch", "mkdir", "mv"):
        (tools / name).symlink_to(shutil.which(name))
    return str(tools)


@pytest.mark.parametrize(
    ("line", "met"),
    [
        ("pytest", True),
        ("pytest>=7.0", True),
        ("pytest>=999", False),
        ("pytest==0.0.1", False),
        ("no-such-distribution-xyz", False),
    ],
)
def test_requirements_are_compared(tmp_path, line, met):
    (tmp_path / "base.txt").write_text(f"{line}  # why\n")
    (tmp_path / "dev.txt").write_text("# comment\n-r base.txt\npluggy\n")
    script = ROOT / "scripts" / "check_requirements.py"
    result = subprocess.run([sys.executable, script, tmp_path / "dev.txt"], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == ((0, "") if met else (1, line))


def test_an_entry_point_without_the_environment_names_the_set_up():
    # -S disables site-packages: a Python without installed packages.
    result = subprocess.run([sys.executable, "-S", ROOT / "infer.py"], capture_output=True, text=True)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and "torch" in lines[0] and "scripts/setup.sh" in lines[0]
