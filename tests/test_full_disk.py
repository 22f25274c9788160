"""Programs on a full disk, with little shared memory, and in unusual folders: one line, and no half-written file."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_capture import TinyCapture

from smpl_renderer.files import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture
def in_small_disk(tmp_path):
    """Run a command with a folder on a disk of given size, or with shared memory of given size."""

    def call(size: str, mount_point: Path, *command: str) -> tuple[int, list[str], list[str]]:
        mount_point.mkdir(exist_ok=True)
        script = 'mount -t tmpfs -o "size=$0" none "$1" || exit 77; "${@:2}"; status=$?; ls -AR "$1"; exit $status'
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, size, str(mount_point), *command],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode == 77 or "unshare: " in done.stderr:
            pytest.skip("no mounts in a namespace of its own are allowed here")
        return done.returncode, done.stderr.splitlines(), done.stdout.splitlines()

    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    return call


INFER = ("infer.py", "--device", "cpu", "--refine", "0", "--video-size", "48", "--video-frames", "2")


@pytest.mark.parametrize("size", ["8k", "600k", "1200k"])  # ends in the first file, in the video or in the sheet
def test_infer_on_a_full_disk(in_small_disk, tmp_path, size):
    disk = tmp_path / "disk"
    status, errors, files = in_small_disk(size, disk, sys.executable, *INFER, "--workspace", str(disk / "out"))
    assert status == 2 and errors[-1].startswith(f"error: {disk / 'out'}") and "No space left" in errors[-1]
    assert "Traceback" not in "".join(errors)
    assert [line for line in files if line and not line.endswith(":")] == ["out"]


@pytest.fixture(scope="module")
def captures(tmp_path_factory, body) -> Path:
    root = tmp_path_factory.mktemp("captures")
    for name in ("200100", "200101"):
        TinyCapture(image_size=(153, 128), frames=(5, 10, 15)).write(root / name, body)
    return root


def train(captures: Path, workspace: Path, *further: str) -> list[str]:
    options = [
        "--data.root",
        str(captures),
        "--steps",
        "2",
        "--save-every",
        "1",
        "--validation",
        "0",
        "--log-every",
        "1",
    ]
    return [sys.executable, "main.py", "demo", "--device", "cpu", *options, "--workspace", str(workspace), *further]


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
def test_writers_of_captures_on_a_full_disk(in_small_disk, captures, tmp_path, command):
    """They name the subject that has no room; of it nothing is left."""
    disk = tmp_path / "disk"
    script, *options = command
    source = [] if script == "make_synthetic.py" else [str(captures)]
    call = [sys.executable, f"scripts/{script}", *options, *source, "--out", str(disk / "out")]
    status, errors, files = in_small_disk("8k", disk, *call)
    assert status == 2 and errors[-1].startswith(f"error: {disk / 'out'}/2") and "No space left" in errors[-1]
    assert "Traceback" not in "".join(errors)
    assert not [name for name in files if name.endswith((".jpg", ".png", ".json", ".pkl")) and "packing" not in name]


@pytest.mark.parametrize("size", ["8k", "5m"])  # ends in the logs, and in the first run state
def test_training_on_a_full_disk(in_small_disk, captures, tmp_path, size):
    disk = tmp_path / "disk"
    status, errors, files = in_small_disk(size, disk, *train(captures, disk / "run"))
    assert status == 2 and errors[-1].startswith("error: ") and "No space left" in errors[-1]
    assert "Traceback" not in "".join(errors)
    assert not [name for name in files if "state_" in name or name.endswith(".safetensors")]


def test_training_with_little_shared_memory(in_small_disk, captures, tmp_path):
    command = train(captures, tmp_path / "run", "--data.num-workers", "1")
    status, errors, _ = in_small_disk("100k", Path("/dev/shm"), *command)
    assert status == 2 and errors[-1].startswith("error: the shared memory of the workers (/dev/shm) is exhausted")
    assert "Traceback" not in "".join(errors)


def test_training_with_a_limited_file_size(captures, tmp_path):
    """As by `ulimit -f`, below the size of a run state."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    command = train(captures, tmp_path / "run", "--data.num-workers", "0")
    done = subprocess.run(command, cwd=REPOSITORY, preexec_fn=limit, capture_output=True, text=True)
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
        done = subprocess.run(train(root, workspace, *steps), cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (workspace / "state_00000003.pt").is_file() and (workspace / "model.safetensors").is_file()
