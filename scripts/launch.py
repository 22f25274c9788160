"""`accelerate launch` whose last line names the failure: python scripts/launch.py --config_file FILE main.py

Takes the arguments of `accelerate launch`, and exits with the status of the process that failed first.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
import signal
import subprocess

from accelerate.commands import launch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure


def main() -> None:
    """Start the processes and wait for them."""
    # After a failure this logger writes many lines about stopping the other processes.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        launch.main()
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: _order(item[1]))
        sys.stderr.write(f"\nerror: {_reason(failure)} (process {rank}; the others were stopped)\n")
        raise SystemExit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode) from None
    except subprocess.CalledProcessError as error:  # of a single process
        raise SystemExit(error.returncode) from None


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
