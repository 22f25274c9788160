"""Run states: everything that an interrupted run needs to resume exactly, in one file per saved step."""

import logging
import random
import re
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.options import TrainOptions
from core.utils.options_json import options_from_json
from smpl_renderer.bounded_files import load_torch
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

_NAME = re.compile(r"state_(\d+)\.pt")
MAX_STATE_BYTES = 2**35
"""Largest run state: 2.8 billion parameters in float32 with the two averages of Adam."""


@dataclass(frozen=True)
class RunState:
    """A run after `step` steps. The position in the data and the learning rate follow from the step."""

    step: int
    seconds: float
    """Duration of the run so far, earlier parts included."""
    options: str
    """TrainOptions, as JSON."""
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    rng: list[dict[str, Any]]
    """States of the random generators of each process (`rng_state`)."""
    first_scores: dict[str, float]
    """Scores of the held-out subjects before training."""
    bad_steps: int
    """Number of skipped steps."""
    earlier: list[dict[str, Any]] = field(default_factory=list)
    """Trainings behind the `--init` checkpoint, as fields of `core.checkpoint.Training`."""


def save_run_state(workspace: Path, state: RunState, keep: int) -> Path:
    """Write `state_<step>.pt` and remove obsolete files.

    Obsolete are all but the newest `keep` states, states of later steps (the run was resumed from an earlier one), and
    incomplete files of killed runs.
    """
    path = workspace / f"state_{state.step:08d}.pt"
    with atomic_path(path) as temporary:
        torch.save(vars(state), temporary)
    kept = [other for other in find_run_states(workspace) if other.name <= path.name][-max(1, keep) :]
    for other in {*find_run_states(workspace), *workspace.glob(".state_*.pt")} - {*kept}:
        other.unlink(missing_ok=True)
    return path


def find_run_states(workspace: Path) -> list[Path]:
    """The run states of a workspace, oldest first."""
    return sorted(path for path in workspace.glob("state_*.pt") if _NAME.fullmatch(path.name))


def resolve_resume(resume: str, workspace: Path) -> Path | None:
    """Path of the run state that `--resume` selects: None for `none`, and for `auto` in a workspace without one.

    Raises:
        InputError: If there is no file at the path, or for `none` in a workspace that holds a run.
    """
    states = find_run_states(workspace)
    if resume == "none":
        if states:
            remedy = "resume it with --resume auto, or choose another --workspace"
            raise InputError(f"{workspace} holds a run already ({states[-1].name}): {remedy}")
        return None
    if resume == "auto":
        return states[-1] if states else None
    if not Path(resume).is_file():
        raise InputError(f"no run state at {resume}: --resume takes `auto`, `none` or a state_<step>.pt")
    return Path(resume)


def load_run_state(path: Path) -> RunState:
    """Read a run state, to the CPU.

    Raises:
        InputError: If the file is of another kind, or damaged.
    """
    if _is_safetensors(path):
        raise InputError(
            f"{path} is a checkpoint, which holds weights only; start a new run from it with --init, or give a "
            "state_<step>.pt to --resume"
        )
    try:
        content = load_torch(path, MAX_STATE_BYTES, "a run state")
    except (OSError, InputError):
        raise
    except Exception as error:  # torch, zipfile and pickle each raise errors of their own on a damaged file
        raise InputError(
            f"{path} is not a readable run state ({type(error).__name__}); resume from another one: "
            "--resume FOLDER/state_<step>.pt"
        ) from error
    names = {f.name for f in fields(RunState)}
    required = {f.name for f in fields(RunState) if f.default_factory is MISSING}
    if not isinstance(content, dict) or not required <= content.keys() <= names:
        raise InputError(f"{path} is not a run state of this program; give a state_<step>.pt to --resume")
    return RunState(**content)


def _is_safetensors(path: Path) -> bool:
    """True for a file that starts like safetensors: the length of a JSON header, then the header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def rng_state(device: torch.device) -> dict[str, Any]:
    """States of the random generators of this process."""
    _, numpy_keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - libraries may use the global one
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(numpy_keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_rng(state: dict[str, Any], device: torch.device) -> None:
    """Set the random generators of this process to states of `rng_state`."""
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


INTERVALS = ("log_every", "image_every", "eval_every", "save_every", "keep")
"""Options that change what a run writes, not what it computes."""


def resume_signature(options: TrainOptions, processes: int) -> tuple[TrainOptions, int]:
    """Options that determine how a run continues, and the number of subjects per step.

    Two runs with equal signatures compute the same from equal run states. How subjects are distributed over processes
    and read, memory options, and the intervals of logs and files are left out.
    """
    subjects = options.batch_size * options.accumulate * processes
    fixed = {"batch_size": 1, "accumulate": 1, "cuda_graphs": True, "checkpoint_unet": False, "resume": "auto"}
    data = replace(options.data, num_workers=0)
    return replace(options, data=data, workspace=Path(), **fixed, **dict.fromkeys(INTERVALS, 1)), subjects


def check_resumable(state: RunState, options: TrainOptions, processes: int) -> None:
    """Compare the options of a run state with those of the run that resumes from it; log a warning if they differ.

    Raises:
        InputError: If the state is of another network or stage.
    """
    source = f"the run state of step {state.step}"
    earlier = options_from_json(TrainOptions, state.options, source)
    if (earlier.model, earlier.stage) != (options.model, options.stage):
        raise InputError(f"{source} is of another network or stage; use its options, or choose another --workspace")
    if resume_signature(earlier, len(state.rng)) != resume_signature(options, processes):
        logger.warning("some options differ from those of %s: the run resumes, but not exactly", source)


def check_agreement(views: list[tuple[int, list[str]]]) -> None:
    """Refuse to train where processes, on several machines, read different files.

    Args:
        views: For each process, the step it starts from and the names of its subjects.
    Raises:
        InputError: If they differ.
    """
    for what, found in zip(("run states", "captures"), zip(*views)):
        if any(value != found[0] for value in found):
            raise InputError(f"the processes see different {what}: all machines must share --workspace and --data.root")
