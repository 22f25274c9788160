"""What an interrupted run needs to go on as if nothing had happened: one file, written whole or not at all."""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

_NAME = re.compile(r"state_(\d+)\.pt")


@dataclass(frozen=True)
class RunState:
    """A run after `step` steps. Its place in the data and its learning rate follow from the step."""

    step: int
    seconds: float
    """Time spent so far."""
    options: str
    """TrainOptions, as JSON."""
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    rng: list[dict[str, Any]]
    """State of the random generators of each process (`rng_state`)."""
    first_scores: dict[str, float]
    """Scores of the held-out persons before training."""
    bad_steps: int
    """Steps that were skipped."""
    earlier: list[dict[str, Any]] = field(default_factory=list)
    """The trainings behind the checkpoint that the run began from (`core.checkpoint.Training`)."""


def save_run_state(workspace: Path, state: RunState, keep: int) -> Path:
    """Write `state_<step>.pt`, and remove what is not needed any more.

    That are all but the newest `keep`, those of later steps (the run went back to an earlier one), and what killed runs
    have left half-written.
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
    """The run state that `--resume` means: None for `none`, and for `auto` where there is none yet.

    Raises:
        InputError: If it is a path at which there is nothing, or `none` where there is a run already.
    """
    states = find_run_states(workspace)
    if resume == "none":
        if states:
            remedy = "go on with it by --resume auto, or choose another --workspace (or delete it)"
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
        InputError: If the file is not one.
    """
    try:
        return RunState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch, zipfile and pickle each have their own ways to fail on a damaged file
        raise InputError(
            f"{path} is not a usable run state ({type(error).__name__}); delete it to use the one before"
        ) from error


def rng_state(device: torch.device) -> dict[str, Any]:
    """The random generators of this process."""
    _, numpy_keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global one is what may be in use
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(numpy_keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_rng(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
