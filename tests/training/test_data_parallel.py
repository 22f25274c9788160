"""Two processes on the CPU, as train.sh starts one per GPU: same results as one process, and one failure stops both."""

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
from core.training import trainer
from core.training.trainer import Trainer
from core.training.step import TrainingStep
from core.training.rank_monitor import run_distributed

MODE = sys.argv[2] if sys.argv[2:] else ""
RANK = int(os.environ["RANK"])

class BadLoss(TrainingStep):
    calls = 0

    def forward(self, *args):
        loss, report = super().forward(*args)
        self.calls += 1
        is_bad = MODE == "bad loss" and RANK == 1 and self.calls == 2
        return (loss + float("nan"), report + float("nan")) if is_bad else (loss, report)

trainer.TrainingStep = BadLoss

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
        return save(content, file, **options)  # a message between processes
    file.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

def main():
    Killed(options_from_json(TrainOptions, Path(sys.argv[1]).read_text(), "test")).run()

run_distributed(main)
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
    """Reports of the steps, without terms that they do not compute."""
    rows = read_rows(options.workspace / "log.csv")
    return [{name: value for name, value in row.items() if value == value} for row in rows]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
@pytest.mark.parametrize("stage", ["frame", "joint"])
def test_results_do_not_depend_on_the_distribution_of_subjects(stage, options, tmp_path):
    """Four subjects per step: in one batch, in two, in two processes of two; and started by one, resumed by two."""
    graph = replace(options.model.graph, dropout=0.0)
    options = replace(options, stage=stage, batch_size=4, steps=3, save_every=1, eval_every=2, keep=9)
    options = replace(options, model=replace(options.model, graph=graph, feedback=1), validation=1)
    one_batch = replace(options, workspace=tmp_path / "one batch")
    Trainer(one_batch).run()
    two_batches = replace(options, batch_size=2, accumulate=2, workspace=tmp_path / "two batches")
    Trainer(two_batches).run()
    two_processes = replace(options, batch_size=1, accumulate=2, workspace=tmp_path / "two processes")
    done = launch(two_processes, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    resumed = replace(options, batch_size=2, workspace=tmp_path / "resumed", resume="auto")
    for path in (one_batch.workspace / "state_00000001.pt", one_batch.workspace / "log.csv"):
        resumed.workspace.mkdir(exist_ok=True)
        shutil.copy(path, resumed.workspace)
    done = launch(resumed, tmp_path)
    assert done.returncode == 0 and "options differ" not in done.stderr, done.stderr[-3000:]

    expected = losses(one_batch)
    assert len(expected) == 3 and len({row["loss"] for row in expected}) == 3
    for other in (two_batches, two_processes, resumed):
        for row, own in zip(expected, losses(other), strict=True):
            # float32 sums in another order, amplified by two steps of AdamW.
            assert own == pytest.approx(row, rel=2e-4), other.workspace.name
    scores = [read_rows(run.workspace / "scores.csv")[-1] for run in (one_batch, two_processes)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_two_processes_killed_while_saving_resume_exactly(options, tmp_path):
    options = replace(options, steps=2, save_every=1, accumulate=2)  # with dropout, which processes draw differently
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
@pytest.mark.usefixtures("warm_python")
def test_a_non_finite_loss_of_one_process_is_skipped_by_all(options, tmp_path):
    """The gradients of this loss are finite; the NaN reaches the other process through their initial value."""
    done = launch(replace(options, steps=3, save_every=3, validation=0), tmp_path, "bad loss")
    assert done.returncode == 0 and "skipped step 2" in done.stderr, done.stderr[-3000:]
    state = load_run_state(find_run_states(options.workspace)[-1])
    assert state.bad_steps == 1 and all(tensor.isfinite().all() for tensor in state.model.values())
    assert {int(entry["step"]) for entry in state.optimizer["state"].values()} == {2}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_an_unreadable_sample_of_one_process_stops_all_and_is_named_last(options, tmp_path):
    root = tmp_path / "captures"
    shutil.copytree(options.data.root, root)
    for image in root.glob("200101/images_lr/*/*.jpg"):
        image.write_bytes(b"no image")
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
