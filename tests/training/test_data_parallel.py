"""Two processes on the CPU, as train.sh has one for each of several GPUs."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from core.io.options_json import options_to_json
from core.training.logs import read_rows
from core.training.run_state import find_run_states, load_run_state
from smpl_renderer.body_model import REPOSITORY

PROGRAM = """
import sys
from pathlib import Path
from core.io.options_json import options_from_json
from core.options import TrainOptions
from core.training.engine import Trainer
Trainer(options_from_json(TrainOptions, Path(sys.argv[1]).read_text(), "test")).run()
"""


def launch(options, folder) -> None:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "options.json").write_text(options_to_json(options))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(folder / "program.py"), str(folder / "options.json")]
    settings = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **settings}
    pipes = {"capture_output": True, "text": True}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, timeout=300, **pipes)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["frame", "joint"])
def test_processes_train_one_network_on_different_persons(stage, options, tmp_path):
    options = replace(options, stage=stage, steps=2, save_every=1, accumulate=2)
    launch(options, tmp_path)
    rows = read_rows(options.workspace / "log.csv")
    assert [row["step"] for row in rows] == [1, 2] and all(row["grad_norm"] > 0 for row in rows)
    first, last = (load_run_state(path) for path in find_run_states(options.workspace))
    assert len(last.rng) == 2 and not torch.equal(last.rng[0]["torch"], last.rng[1]["torch"])

    (options.workspace / "state_00000002.pt").unlink()
    launch(replace(options, resume="auto"), tmp_path)
    repeated = load_run_state(find_run_states(options.workspace)[-1])
    for name, tensor in last.model.items():
        assert torch.equal(tensor, repeated.model[name]), name
    assert first.step == 1
