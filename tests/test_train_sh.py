"""train.sh: choice of the preset, generated data and started programs; a substitute for Python records arguments."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then echo "$GPUS"; else echo "$*" >>calls; fi
"""


@pytest.fixture
def train(tmp_path):
    """Run train.sh in a folder of its own with a number of GPUs; return exit status, errors and the calls of Python."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "train.sh", tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "scripts" / "setup.sh").write_text('PYTHON="$PWD/python"\n')

    def run(*arguments: str, gpus: int = 0) -> tuple[int, str, list[str]]:
        (tmp_path / "calls").write_text("")
        command, environment = ["bash", tmp_path / "train.sh", *arguments], {"GPUS": str(gpus), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.returncode, done.stderr, (tmp_path / "calls").read_text().splitlines()

    run.folder = tmp_path
    return run


def listed(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "human.json").touch()


def test_captures_are_generated_once(train):
    status, _, (make, start) = train("--steps", "3")
    assert status == 0 and start == "main.py demo --steps 3"
    assert make.startswith("scripts/make_synthetic.py --out synthetic ")
    listed(train.folder / "synthetic")
    assert train("demo")[2] == ["main.py demo"]


def test_existing_data_is_used(train):
    for arguments in (["demo", "--data.root", "mine"], ["demo-gpu", "--data.root=mine"]):
        assert train(*arguments)[2] == [" ".join(["main.py", *arguments])]
    (train.folder / "mvhuman_24").mkdir()
    assert train()[2] == ["main.py small"]


def test_the_benchmark_is_generated_on_a_gpu_only(train):
    status, errors, calls = train("demo-gpu")
    assert status == 2 and calls == [] and errors.startswith("error: preset demo-gpu is for a GPU")
    status, _, calls = train("demo-gpu", gpus=1)
    assert status == 0 and [call.split(" --")[0] for call in calls] == [
        *("scripts/make_benchmark.py", "scripts/prepare_data.py", "scripts/prepare_data.py", "main.py demo-gpu")
    ]
    assert all("--crop person --size 256" in call for call in calls[1:3])  # as the preset requires
    listed(train.folder / "benchmark/crops/val")
    assert train("demo-gpu-512", gpus=1)[2] == ["main.py demo-gpu-512"]


def test_all_gpus_are_used(train):
    starts = {gpus: train("tiny", gpus=gpus)[2][0].split(" main.py")[0] for gpus in (1, 2, 3, 8)}
    assert starts.pop(1) == "main.py tiny"
    assert starts == {n: f"scripts/launch.py --config_file configs/gpu{2 if n == 3 else n}.yaml" for n in (2, 3, 8)}
