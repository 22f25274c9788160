"""Programs on a full disk, with little shared memory, and in unusual folders: one line, and no half-written file."""

import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from forked_script import mount_small_disk, run_script
from tiny_capture import TinyCapture
from tiny_network import TINY_UNET

from core.checkpoint import save_checkpoint
from core.model.hgg import HumanGaussianGraph
from core.options import GraphOptions, ModelOptions

pytestmark = pytest.mark.slow


def on_small_disk(size: str, disk: Path, *command: str | Path) -> tuple[int, list[str], list[str]]:
    """Exit status, lines of stderr and names of files left, of a script with a disk of given size at a folder."""
    disk.mkdir(exist_ok=True)
    listing = disk.parent / "listing"  # of the disk, which ends with the process
    listing.unlink(missing_ok=True)

    def prepare() -> None:
        try:
            mount_small_disk(disk, size)
        except PermissionError:
            os._exit(77)

    def finish() -> None:
        listing.write_text("\n".join(path.name for path in disk.rglob("*")))

    done = run_script(*command, prepare=prepare, finish=finish)
    if done.returncode == 77:
        pytest.skip("no mounts in a namespace of its own are allowed here")
    assert listing.exists(), done.stderr
    return done.returncode, done.stderr.splitlines(), listing.read_text().splitlines()


@pytest.fixture(scope="module")
def captures(tmp_path_factory, body) -> Path:
    root = tmp_path_factory.mktemp("captures")
    for name in ("200100", "200101"):
        TinyCapture(image_size=(153, 128), frames=(5, 10, 15)).write(root / name, body)
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, body) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    model = ModelOptions(unet=TINY_UNET, graph=GraphOptions(features=8, queries=1, layers=1, heads=2))
    save_checkpoint(path, HumanGaussianGraph(model, body), step=3)
    return path


INFER = (
    "infer.py",
    "--device",
    "cpu",
    "--backend",
    "torch",
    "--refine",
    "0",
    "--video-size",
    "48",
    "--video-frames",
    "2",
)


@pytest.mark.parametrize("size", ["8k", "600k", "1200k"])  # ends in the first file, in the video or in the sheet
def test_infer_on_a_full_disk(captures, checkpoint, tmp_path, size):
    disk = tmp_path / "disk"
    command = (
        *INFER,
        "--video-frames",
        "2",
        captures / "200100",
        "--checkpoint",
        checkpoint,
        "--workspace",
        disk / "out",
    )
    status, errors, left = on_small_disk(size, disk, *command)
    assert status == 2 and errors[-1].startswith(f"error: {disk / 'out'}") and "No space left" in errors[-1]
    assert "Traceback" not in "".join(errors)
    assert left == ["out"]


def train(captures: Path, workspace: Path, *further: str) -> tuple[str | Path, ...]:
    options = ["--steps", "2", "--save-every", "1", "--validation", "0", "--log-every", "1"]
    return "main.py", "demo", "--device", "cpu", "--data.root", captures, *options, "--workspace", workspace, *further


@pytest.mark.parametrize(
    "command",
    [
        ("make_synthetic.py", "--subjects", "1", "--poses", "1", "--cameras", "1", "--workers", "0", "--width", "612"),
        ("prepare_data.py", "--workers", "0", "--root"),
        ("prepare_data.py", "--workers", "1", "--crop", "person", "--size", "256", "--root"),
        ("convert_capture.py", "--to", "capture"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_writers_of_captures_on_a_full_disk(captures, tmp_path, command):
    """They name the subject that has no room; of it nothing is left."""
    disk = tmp_path / "disk"
    script, *options = command
    source = [] if script == "make_synthetic.py" else [captures]
    call = [f"scripts/{script}", *options, *source, "--out", disk / "out"]
    status, errors, files = on_small_disk("8k", disk, *call)
    assert status == 2 and errors[-1].startswith(f"error: {disk / 'out'}/2") and "No space left" in errors[-1]
    assert "Traceback" not in "".join(errors)
    assert not [name for name in files if name.endswith((".jpg", ".png", ".json", ".pkl")) and "packing" not in name]


@pytest.mark.parametrize("size", ["8k", "5m"])  # ends in the logs, and in the first run state
def test_training_on_a_full_disk(captures, tmp_path, size):
    disk = tmp_path / "disk"
    status, errors, files = on_small_disk(size, disk, *train(captures, disk / "run"))
    assert status == 2 and errors[-1].startswith("error: ") and "No space left" in errors[-1]
    assert "Traceback" not in "".join(errors)
    assert not [name for name in files if "state_" in name or name.endswith(".safetensors")]


def test_training_with_little_shared_memory(captures, tmp_path):
    command = train(captures, tmp_path / "run", "--data.num-workers", "1")
    status, errors, _ = on_small_disk("100k", Path("/dev/shm"), *command)
    assert status == 2 and errors[-1].startswith("error: the shared memory of the workers (/dev/shm) is exhausted")
    assert "Traceback" not in "".join(errors)


def test_training_with_a_limited_file_size(captures, tmp_path):
    """As by `ulimit -f`, below the size of a run state."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    command = train(captures, tmp_path / "run", "--data.num-workers", "0")
    done = run_script(*command, prepare=limit)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and line.startswith(f"error: {tmp_path / 'run' / 'state_00000001.pt'}: ")
    left = {path.name for path in (tmp_path / "run").iterdir() if path.name.startswith((".", "state"))}
    assert left <= {".training.lock"}


def test_any_path_can_be_trained_on_and_into(captures, tmp_path):
    """Spaces, quotes, line breaks, percent signs and letters of any script."""
    root, workspace = tmp_path / "cap tures\n'é\"%d$", tmp_path / "a:b \u4eba\n;*.pt"
    shutil.copytree(captures, root)
    for resume in ("none", "auto"):
        steps = ("--steps", "2" if resume == "none" else "3", "--resume", resume, "--data.num-workers", "0")
        done = run_script(*train(root, workspace, *steps))
        assert done.returncode == 0, done.stderr[-3000:]
    assert (workspace / "state_00000003.pt").is_file() and (workspace / "model.safetensors").is_file()
