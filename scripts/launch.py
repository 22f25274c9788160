"""`accelerate launch` whose last line names the failure: python scripts/launch.py --config_file FILE main.py

Takes the arguments of `accelerate launch`, and exits with the status of the process that failed first.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import LAUNCHED, require

require()

import argparse
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from typing import NoReturn

import psutil
import yaml
from accelerate.commands import launch
from accelerate.commands.config import config_args
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from core.utils.cli import one_line
from smpl_renderer.bounded_files import CONTENT_ERRORS, MAX_TEXT_BYTES, check_file
from smpl_renderer.errors import InputError


def main() -> None:
    """Start the processes and wait for them."""
    # After a failure this logger writes many lines about stopping the other processes.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ[LAUNCHED] = "1"
    for number in (signal.SIGTERM, signal.SIGINT):  # the launcher of several processes has handlers of its own
        signal.signal(number, _stop_process)
    start_one, launch.simple_launcher = launch.simple_launcher, lambda args: start_one(_of_one_process(args))
    read, launch.load_config_from_file = launch.load_config_from_file, lambda path: _read_config(path, read)
    try:
        launch.main()
    except (InputError, ValueError) as error:  # the launcher's own, of arguments that contradict each other
        sys.stderr.write(f"error: {one_line(str(error))}\n")
        raise SystemExit(2) from None
    except SignalException as error:
        _end_children(error.sigval)  # those that were started just before the signal are not known to the launcher
        _exit_by_signal(error.sigval)
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: _order(item[1]))
        sys.stderr.write(f"\nerror: {_reason(failure)} (process {rank}; the others were stopped)\n")
        raise SystemExit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode) from None
    except subprocess.CalledProcessError as error:  # of a single process
        raise SystemExit(error.returncode) from None


def _read_config(path: str | None, read: Callable[[str | None], object]) -> object:
    """The configuration of a file, by default of the one of `accelerate config`.

    Raises:
        InputError: If the file cannot be read as one.
    """
    file = Path(config_args.default_config_file if path is None else path)
    check_file(file, MAX_TEXT_BYTES, "a configuration")
    try:
        return read(path)
    except (*CONTENT_ERRORS, OSError, yaml.YAMLError) as error:
        raise InputError(
            f"{file}: cannot be read as a configuration ({one_line(str(error))}); write it by accelerate config"
        ) from error


def _of_one_process(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, for the launcher that starts one process, or several by MPI.

    Raises:
        InputError: If several processes are to be started without MPI.
    """
    if (args.num_processes or 1) > 1 and args.mpirun_hostfile is None:
        raise InputError(
            f"the configuration is for {args.num_processes} processes, of which one would start; set num_processes: 1. "
            "For several on CPUs, set distributed_type: MULTI_GPU, and ACCELERATE_USE_CPU=true in the environment"
        )
    return args


def _stop_process(number: int, _frame: object) -> NoReturn:
    """Handle a signal while a single process runs: end that process, then this one."""
    _end_children(number)
    _exit_by_signal(number)


def _end_children(number: int) -> None:
    """Send a signal to the processes that this one has started and wait for them; after 10 s they are killed."""
    children = psutil.Process().children()
    if number == signal.SIGINT:  # a terminal sends it to all processes
        _, children = psutil.wait_procs(children, 2)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)
    _, children = psutil.wait_procs(children, 10)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, 10)


def _exit_by_signal(number: int) -> NoReturn:
    name = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    sys.stderr.write(f"{name}\n")
    raise SystemExit(128 + number) from None


def _order(failure: ProcessFailure) -> tuple[bool, bool, bool, int]:
    """Sort key that puts causes before consequences: killed, failed with a reason, stopped by the launcher."""
    is_stopped, is_killed = failure.exitcode == -signal.SIGTERM, failure.exitcode < 0
    return is_stopped, not is_killed, isinstance(failure.message, str), failure.timestamp


def _reason(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        return f"killed by {failure.signal_name()}; the machine may be out of memory"
    if isinstance(failure.message, str):
        return f"ended with status {failure.exitcode}; see above"
    return " ".join(failure.message["message"].removeprefix("InputError: ").split())


if __name__ == "__main__":
    main()
