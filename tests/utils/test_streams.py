"""Closed, short-lived and ASCII outputs, interruptions during imports, and old versions of Python: one line each."""

import ast
import os
import signal
import subprocess
import sys

import pytest

from smpl_renderer.files import REPOSITORY

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from core.utils.environment import require
require()
{imports}
from core.utils.cli import run
run(lambda: print({text}))
"""


def program(text: str, imports: str = "") -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(root=str(REPOSITORY), text=text, imports=imports)]


@pytest.mark.parametrize("length", [10, 10**6])  # found at the end, or while it is written
def test_a_reader_that_ends_early_ends_the_program(length):
    with subprocess.Popen(program(f"'a' * {length}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_closed_output_is_no_error():
    command = ["bash", "-c", '"$@" >&-', "bash", *program("'a'")]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_characters_that_an_output_lacks_are_escaped():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(program("'psnr \\u2191'"), capture_output=True, check=False, env=environment)
    assert (done.stdout, done.stderr) == (b"psnr \\u2191\n", b"")


def test_an_interruption_of_imports_is_one_line():
    imports = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(10)"

    def listen():  # a shell starts background jobs with the signal ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    done = subprocess.run(program("'a'", imports), capture_output=True, check=False, preexec_fn=listen)
    assert done.stderr == b"interrupted\n" and done.returncode in (-signal.SIGINT, 128 + signal.SIGINT)


ENTRY_POINTS = ["main.py", "infer.py", "scripts/animate.py", "scripts/make_synthetic.py", "scripts/prepare_data.py"]


@pytest.mark.parametrize("name", [*ENTRY_POINTS, "core/utils/environment.py"])
def test_old_versions_of_python_reach_the_check_of_the_version(name):
    """Entry points parse in Python 3.6 and import little before the check; the two main ones parse in 2.7."""
    tree = ast.parse((REPOSITORY / name).read_text(), feature_version=(3, 6))
    names = []
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and "require" in ast.dump(node):
            break
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
    assert set(names) <= {"sys", "os", "Path", "require"}
    if not name.startswith("scripts/"):
        nodes = [*ast.walk(tree)]
        assert not any(isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.Nonlocal) for node in nodes)
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        arguments = [argument for function in functions for argument in function.args.args]
        assert not any([function.returns for function in functions] + [argument.annotation for argument in arguments])
        assert (REPOSITORY / name).read_text().isascii()
