"""Two processes on the CPU, as train.sh has one for each of several GPUs: equal to one, and ended by one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.options import TrainOptions
from core.training.logs import read_rows
from core.training.run_state import find_run_states, load_run_state
from core.training.trainer import Trainer
from core.utils.options_json import options_to_json
from smpl_renderer.files import REPOSITORY

PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
from core.utils.options_json import options_from_json
from core.options import TrainOptions
from core.training import trainer as engine
from core.training.trainer import Trainer
from core.training.step import TrainingStep
from core.training.rank_monitor import run_together

MODE = sys.argv[2] if sys.argv[2:] else ""
RANK = int(os.environ["RANK"])

class BadLoss(TrainingStep):
    calls = 0

    def forward(self, *args):
        loss, report = super().forward(*args)
        self.calls += 1
        is_bad = MODE == "bad loss" and RANK == 1 and self.calls == 2
        return (loss + float("nan"), report + float("nan")) if is_bad else (loss, report)

engine.TrainingStep = BadLoss

class Killed(Trainer):
    def _train_step(self, done):
        if MODE == "killed" and self.step == 1 and self.accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._train_step(done)

    def _save(self):
        if MODE == "killed while saving" and self.step == 2:
            torch.save = half_save
        super()._save()

save = torch.save

def half_save(content, file, **options):
    if not isinstance(file, Path):
        return save(content, file, **options)  # what processes send to each other
    file.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

def main():
    Killed(options_from_json(TrainOptions, Path(sys.argv[1]).read_text(), "test")).run()

run_together(main)
"""


def launch(options: TrainOptions, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "options.json").write_text(options_to_json(options))
    launcher = [sys.executable, str(REPOSITORY / "scripts" / "launch.py"), "--multi_gpu", "--num_processes", "2"]
    further = ["--num_machines", "1", "--mixed_precision", "no", "--main_process_port", "0"]
    command = [*launcher, *further, str(folder / "program.py"), str(folder / "options.json"), *arguments]
    settings = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **settings}
    pipes = {"capture_output": True, "text": True}
    return subprocess.run(command, cwd=folder, env=environment, check=False, timeout=300, **pipes)


def losses(options: TrainOptions) -> list[dict[str, float]]:
    """What the steps report, without what they do not have."""
    rows = read_rows(options.workspace / "log.csv")
    return [{name: value for name, value in row.items() if value == value} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["frame", "joint"])
def test_how_the_persons_of_a_step_are_shared_out_changes_nothing(stage, options, tmp_path):
    """Four persons a step: at once, in two parts, in two processes of two parts; begun by one process, ended by two."""
    graph = replace(options.model.graph, dropout=0.0)
    options = replace(options, stage=stage, batch_size=4, steps=3, save_every=1, eval_every=1, keep=9)
    options = replace(options, model=replace(options.model, graph=graph, feedback=1), validation=1)
    at_once = replace(options, workspace=tmp_path / "at once")
    Trainer(at_once).run()
    in_parts = replace(options, batch_size=2, accumulate=2, workspace=tmp_path / "parts")
    Trainer(in_parts).run()
    in_two = replace(options, batch_size=1, accumulate=2, workspace=tmp_path / "two")
    done = launch(in_two, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    resumed = replace(options, batch_size=2, workspace=tmp_path / "resumed", resume="auto")
    for path in (at_once.workspace / "state_00000001.pt", at_once.workspace / "log.csv"):
        resumed.workspace.mkdir(exist_ok=True)
        shutil.copy(path, resumed.workspace)
    done = launch(resumed, tmp_path)
    assert done.returncode == 0 and "options differ" not in done.stderr, done.stderr[-3000:]

    expected = losses(at_once)
    assert len(expected) == 3 and len({row["loss"] for row in expected}) == 3
    for other in (in_parts, in_two, resumed):
        for row, own in zip(expected, losses(other), strict=True):
            # Sums in another order: float32, amplified by a step or two of AdamW.
            assert own == pytest.approx(row, rel=2e-4), other.workspace.name
    scores = [read_rows(run.workspace / "scores.csv")[-1] for run in (at_once, in_two)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_killed_while_saving_resume_exactly(options, tmp_path):
    options = replace(options, steps=2, save_every=1, accumulate=2)  # with dropout, which differs between processes
    whole = replace(options, workspace=tmp_path / "whole")
    assert launch(whole, tmp_path).returncode == 0
    last = load_run_state(find_run_states(whole.workspace)[-1])
    assert len(last.rng) == 2 and not torch.equal(last.rng[0]["torch"], last.rng[1]["torch"])
    assert launch(options, tmp_path, "killed while saving").returncode == 128 + signal.SIGKILL
    assert [path.name for path in find_run_states(options.workspace)] == ["state_00000001.pt"]
    assert any(options.workspace.glob(".state_00000002.*"))
    assert launch(replace(options, resume="auto"), tmp_path).returncode == 0
    repeated = load_run_state(find_run_states(options.workspace)[-1])
    assert repeated.step == 2 and not any(options.workspace.glob(".state_*"))
    for name, tensor in last.model.items():
        assert torch.equal(tensor, repeated.model[name]), name


@pytest.mark.slow
def test_a_loss_of_one_process_that_is_not_finite_is_skipped_by_all(options, tmp_path):
    """Its gradients are finite: the other process learns of it by what they are made of it."""
    done = launch(replace(options, steps=3, save_every=3, validation=0), tmp_path, "bad loss")
    assert done.returncode == 0 and "skipped step 2" in done.stderr, done.stderr[-3000:]
    state = load_run_state(find_run_states(options.workspace)[-1])
    assert state.bad_steps == 1 and all(tensor.isfinite().all() for tensor in state.model.values())
    assert {int(moments["step"]) for moments in state.optimizer["state"].values()} == {2}


@pytest.mark.slow
def test_a_bad_sample_of_one_process_stops_all_and_is_the_last_word(options, tmp_path):
    root = tmp_path / "captures"
    shutil.copytree(options.data.root, root)
    for picture in root.glob("200101/images_lr/*/*.jpg"):
        picture.write_bytes(b"no picture")
    done = launch(replace(options, data=replace(options.data, root=root), steps=100), tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {root / '200101'}") and "_img.jpg" in last and "(process " in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_process_stops_all(options, tmp_path):
    start = time.monotonic()
    done = launch(replace(options, steps=100_000), tmp_path, "killed")
    assert done.returncode == 128 + signal.SIGKILL and time.monotonic() - start < 60
    assert done.stderr.strip().splitlines()[-1].startswith("error: killed by SIGKILL")
