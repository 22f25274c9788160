"""What the options of a run must fulfil, and when those of two runs mean the same course."""

from dataclasses import replace
from pathlib import Path

from core.options import TrainOptions
from smpl_renderer.errors import InputError

COUNTS = ("steps", "batch_size", "accumulate", "log_every", "image_every", "eval_every", "save_every")


def check_options(options: TrainOptions) -> None:
    """Refuse counts of nothing or of less, and no time at all, before anything is read.

    Raises:
        InputError: If there are any.
    """
    for name in COUNTS:
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.model.feedback < 0:
        raise InputError(f"--model.feedback must be at least 0 (none), got {options.model.feedback}")
    if options.max_minutes is not None and options.max_minutes <= 0:
        raise InputError(f"--max-minutes must be above 0, got {options.max_minutes:g}; leave it out for no limit")


def resume_signature(options: TrainOptions, processes: int) -> tuple[TrainOptions, int]:
    """What decides how a run goes on: not how persons are shared out or read, what saves memory, or what is written."""
    persons = options.batch_size * options.accumulate * processes
    intervals = {name: 1 for name in COUNTS if name != "steps"} | {"keep": 1}
    data = replace(options.data, num_workers=0)
    memory = {"cuda_graphs": True, "checkpoint_unet": False}
    return replace(options, data=data, resume="auto", workspace=Path(), **intervals, **memory), persons


def check_agreement(views: list[tuple[int, list[str]]]) -> None:
    """Refuse to train where processes, on several machines, have found different things.

    Args:
        views: Of each process: the step it goes on from, and its subjects.
    Raises:
        InputError: If they differ.
    """
    for what, found in zip(("run states", "captures"), zip(*views)):
        if any(value != found[0] for value in found):
            raise InputError(f"the processes see different {what}: all machines must share --workspace and --data.root")
