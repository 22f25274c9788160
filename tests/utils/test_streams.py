"""Closed, short-lived and ASCII outputs, interruptions during imports, and old versions of Python: one line each."""

import ast
import os
import shutil
import signal
import subprocess
import sys

import pytest

from core.utils.environment import LAUNCHED
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


def listen():  # a shell starts background jobs with the signal ignored
    signal.signal(signal.SIGINT, signal.SIG_DFL)


KILL = "import os, signal, time\nos.kill(os.getpid(), {number})\ntime.sleep(10)"
BURY = """
def main():
    try:
        os.kill(os.getpid(), {number})
        time.sleep(10)
    except BaseException:
        raise KeyError("half imported") from None
"""
FINALIZE = """
class Thing:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("imports", "text"),
    [
        (KILL, "1"),  # while modules are imported
        ("import os, signal, time", "(os.kill(os.getpid(), {number}), time.sleep(10))"),
        ("import os, time" + BURY, "main()"),  # another error is its consequence
        ("import os, time" + FINALIZE, "Thing() and None"),  # an exception would be ignored
    ],
)
def test_a_signal_is_one_line(number, imports, text):
    text, imports = (part.format(number=int(number)) for part in (text, imports))
    done = subprocess.run(program(text, imports), capture_output=True, check=False, preexec_fn=listen)
    assert done.stderr == (b"interrupted\n" if number == signal.SIGINT else b"stopped by SIGTERM\n")
    assert done.returncode == 128 + number


def test_processes_that_a_program_stops_write_nothing():
    """A forked one, which has its handlers, and one of the launcher, which reports itself."""
    imports = (
        "import multiprocessing as mp, time\nworker = mp.get_context('fork').Process(target=time.sleep, args=(9,))"
    )
    text = "[worker.start(), time.sleep(0.2), worker.terminate(), worker.join(), worker.exitcode][-1]"
    done = subprocess.run(program(text, imports), capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"-15\n", b"")
    launched = os.environ | {LAUNCHED: "1"}
    done = subprocess.run(program("1", KILL.format(number=15)), capture_output=True, check=False, env=launched)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")


ENTRY_POINTS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.py"), *(REPOSITORY / "scripts").glob("*.py"))
)
OLD = [name for name in ("python2.7", "python3.6", "python3.7", "python3.8", "python3.9") if shutil.which(name)]
CHECKS = ("require", "require_python", "exit")


@pytest.mark.parametrize("name", [*ENTRY_POINTS, "core/utils/environment.py"])
def test_old_versions_of_python_reach_the_check_of_the_version(name):
    """Entry points parse in Python 3.6 and import little before the check; Python 2.7 parses them, or shows a line."""
    tree = ast.parse((REPOSITORY / name).read_text(), feature_version=(3, 6))
    names = []
    for node in tree.body:
        calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
        if {getattr(call.func, "id", getattr(call.func, "attr", "")) for call in calls} & {*CHECKS}:
            break
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
    else:
        assert name == "core/utils/environment.py"
    assert {*names} <= {"os", "signal", "sys", "Path", "LAUNCHED", "MODULES", "use_passive_waiting", *CHECKS} | {
        "enable_fused_multiply_add"
    }
    first = tree.body[1]
    if not isinstance(first, ast.AnnAssign):  # which Python 2.7 cannot parse, and shows
        nodes = [*ast.walk(tree)]
        assert not any(isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.Nonlocal) for node in nodes)
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        arguments = [argument for function in functions for argument in function.args.args]
        assert not any([function.returns for function in functions] + [argument.annotation for argument in arguments])
        assert (REPOSITORY / name).read_text().isascii()
    else:
        assert first.target.id == "PYTHON" and "3.10 or newer is needed" in first.annotation.value
        head = (REPOSITORY / name).read_text().splitlines()[: first.lineno]
        assert "\n".join(head).isascii()


@pytest.mark.parametrize("version", OLD)
def test_old_versions_of_python_name_the_needed_one(version):
    for name in ENTRY_POINTS:
        command = [version, str(REPOSITORY / name), "--help"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if b"pyenv" in done.stdout:
            pytest.skip("installed, but not chosen")
        assert done.returncode != 0 and b"3.10 or newer" in done.stdout and b"Traceback" not in done.stdout
