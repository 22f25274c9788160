"""scripts/launch.py: one line and the status of the signal, whether it starts one process or several."""

import os
import signal
import subprocess
import sys

import pytest

from smpl_renderer.files import REPOSITORY

LAUNCH = [sys.executable, str(REPOSITORY / "scripts" / "launch.py")]
FIXED = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
MULTI_CPU = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
use_cpu: true
num_machines: 1
num_processes: 2
machine_rank: 0
mixed_precision: "no"
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [["--num_processes", "1"], ["--multi_gpu", "--num_processes", "2"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_in_one_line(tmp_path, processes, number):
    program = tmp_path / "program.py"
    program.write_text("import os, time\nos.write(1, b'%d\\n' % os.getpid())\ntime.sleep(100)\n")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    command = [*LAUNCH, *processes, *FIXED, str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as done:
        child = int(done.stdout.readline())
        done.send_signal(number)
        _, errors = done.communicate(timeout=60)
    assert done.returncode == 128 + number
    expected = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    assert errors.splitlines()[-1] == expected and "SignalException" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


STARTING = """
import signal, subprocess, sys
from scripts import launch

def interrupted():  # after the first of several processes was started, before the launcher knows of it
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]).pid, flush=True)
    raise launch.SignalException("stopped", sigval=signal.SIGTERM)

launch.launch.main = interrupted
launch.main()
"""


@pytest.mark.slow
def test_a_signal_during_the_start_leaves_no_process(tmp_path):
    with (tmp_path / "errors").open("w") as errors:
        command = [sys.executable, "-c", STARTING]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "errors").read_text() == "stopped by SIGTERM\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


@pytest.mark.slow
def test_several_processes_that_would_not_start_are_refused(tmp_path):
    (tmp_path / "multi_cpu.yaml").write_text(MULTI_CPU)
    command = [*LAUNCH, "--config_file", str(tmp_path / "multi_cpu.yaml"), "program.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "num_processes: 1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
