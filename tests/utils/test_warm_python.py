"""Python processes that start as forks do what executed ones do."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from warm_python import fork_python_starts

STATE = """
import json, os, signal, subprocess, sys
paths = map("/proc/self/fd/{}".format, range(3, 100))
files = [os.readlink(path) for path in paths if os.path.exists(path)]
child = [sys.executable, "-c", "import os, sys; os.kill(os.getpid(), 9) if 'torch' in sys.modules else sys.exit(4)"]
print(json.dumps({
    "name": __name__, "arguments": sys.argv, "path": sys.path[0], "folder": os.getcwd(), "environment": {**os.environ},
    "leads its session": os.getsid(0) == os.getpid(), "input": sys.stdin.read(),
    "files": len(set(files) - {os.devnull}),
    "handlers": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)],
}))
sys.stderr.write(f"{'torch' in sys.modules} {subprocess.run(child).returncode}\\n")
sys.exit("left")
"""


@pytest.mark.parametrize("kind", ["-c", "-m", "script"])
def test_a_fork_is_as_a_new_interpreter(kind, tmp_path, monkeypatch):
    script = tmp_path / "some folder" / "state.py"
    script.parent.mkdir()
    script.write_text(STATE)
    program = {"-c": ["-c", STATE], "-m": ["-m", "state"], "script": [str(script)]}[kind]

    def run() -> tuple[dict, str, int]:
        environment = {"PYTHONPATH": str(script.parent), "HOME": "/", "LC_CTYPE": "C.UTF-8"}
        where = {"cwd": tmp_path, "env": environment, "start_new_session": True}
        pipes = {"capture_output": True, "text": True, "input": "given", "timeout": 20}
        done = subprocess.run([sys.executable, "-u", *program, "a", "b c"], **where, **pipes)
        return json.loads(done.stdout), done.stderr, done.returncode

    before, pipe = signal.signal(signal.SIGTERM, lambda *_: None), os.pipe()
    try:
        expected, errors, status = run()
        assert errors == "False 4\nleft\n" and status == 1
        fork_python_starts(monkeypatch.setattr)
        own, errors, status = run()
        assert errors == "True -9\nleft\n" and status == 1
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(pipe[0]), os.close(pipe[1])
    assert own == expected


def test_other_commands_and_options_are_executed(warm_python):
    ask = "import sys; print('torch' in sys.modules)"
    for command in (["-S", "-c", ask], ["-X", "utf8", "-c", ask]):
        assert subprocess.run([sys.executable, *command], capture_output=True, text=True).stdout == "False\n"
    assert subprocess.run(["echo", "-c"], capture_output=True, text=True).stdout == "-c\n"


def test_pools_that_spawn_have_forks_that_end_as_others(warm_python):
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert all(pool.map(_is_warm, range(4)))
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 1).result()


def _is_warm(_: int) -> bool:
    here = Path("/proc/self/cmdline").read_bytes()
    return "torch" in sys.modules and b"spawn_main" not in here and multiprocessing.parent_process() is not None
