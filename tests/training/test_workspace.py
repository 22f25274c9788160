"""A workspace: locked while a training runs in it, and complete after kills at any moment."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from forked_script import run_script

from core.checkpoint import read_metadata
from core.training.trainer import Trainer
from core.training.workspace_lock import LOCK, lock_workspace
from core.utils.options_json import options_to_json
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

KILLS = int(os.environ.get("HGG_TEST_KILLS", "20"))
"""Kills in saves; two of them take three short runs."""
HOLD = """
import sys
from pathlib import Path
from core.training.workspace_lock import lock_workspace
lock = lock_workspace(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("warm_python")
def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match=f"process {holder.pid} on .*--workspace") as error:
            lock_workspace(tmp_path)
        assert "\n" not in str(error.value)
        holder.kill()
        holder.wait()
    assert lock_workspace(tmp_path) is not None
    assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


@pytest.mark.usefixtures("warm_python")
def test_a_training_holds_the_lock(options, flat_images, tmp_path):
    command = [sys.executable, "-c", HOLD, str(options.workspace)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as holder:
        holder.stdout.readline()
        with pytest.raises(InputError, match="another training"):
            Trainer(options)
        holder.kill()
    Trainer(options)


@pytest.mark.slow
@pytest.mark.parametrize("stale", [None, b"", b"older"])
def test_a_checkpoint_that_a_kill_prevented_is_written_on_resumption(options, flat_images, stale):
    """The kill came between the last state and the checkpoint, which is missing, broken, or that of an earlier step."""
    options = replace(options, steps=2, save_every=1, resume="auto")
    path = options.workspace / "model.safetensors"
    Trainer(replace(options, steps=1)).run()
    older = path.read_bytes()
    Trainer(options).run()
    written = path.read_bytes()
    path.unlink()
    if stale is not None:
        path.write_bytes(older if stale else b"")
    Trainer(options).run()
    assert read_metadata(path)["step"] == "2"
    assert path.read_bytes() == written


KILLED = """
import os, signal, sys
from pathlib import Path
import core.training.run_state as run_state
import smpl_renderer.files as files
from core.options import TrainOptions
from core.training.trainer import Trainer
from core.utils.options_json import options_from_json

left = int(sys.argv[2])

def tick(event, arguments):
    global left
    path = str(arguments[0]) if arguments else ""
    in_workspace = path.startswith(str(options.workspace)) and sys.argv[3] in os.path.basename(path)
    if event in ("open", "os.rename", "os.remove", "os.chmod") and in_workspace:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

options = options_from_json(TrainOptions, Path(sys.argv[1]).read_text(), "test")
trainer = Trainer(options)
sys.addaudithook(tick)
trainer.run()
"""


@pytest.mark.slow
def test_runs_killed_in_their_saves_resume_to_equal_bytes(options, tmp_path):
    """Kills before file operations on the workspace: openings, renamings and removals of its states and checkpoint."""
    options = replace(options, steps=2, save_every=1, keep=1, resume="auto")
    (tmp_path / "options.json").write_text(options_to_json(options))
    (tmp_path / "killed.py").write_text(KILLED)

    def run(count: int, part: str) -> subprocess.CompletedProcess:
        return run_script(tmp_path / "killed.py", tmp_path / "options.json", str(count), part)

    contents, kills = set(), 0
    for count in range(KILLS // 2 + 1):
        folder = options.workspace
        parts = ("state_", "model")[:: 1 if count % 2 else -1] if count else ()
        for second, part in enumerate(parts):  # the second kill is in a run that goes on from the first
            before = (count - 1) // 2
            # What is left after a kill in the checkpoint has three operations on states at least.
            done = run(before % 3 if second and part == "state_" else before, part)
            assert done.returncode in (0, -signal.SIGKILL)
            kills += done.returncode != 0
        done = run(10**6, "-")
        assert done.returncode == 0, done.stderr[-3000:]
        names = {path.name for path in folder.iterdir() if path.name.startswith((".", "state_", "model"))}
        # The older state remains if the kill came before its removal, in the last step.
        assert names - {"state_00000001.pt"} == {LOCK, "model.safetensors", "model.minutes.json", "state_00000002.pt"}
        assert read_metadata(folder / "model.safetensors")["step"] == "2"
        contents.add((folder / "model.safetensors").read_bytes())
        assert len(contents) == 1
        folder.rename(tmp_path / f"done{count}")
    assert kills >= min(KILLS // 2 * 2, 20)
