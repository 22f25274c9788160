"""Stop all processes of a run when one of them fails, on whichever machine, and report the reason.

`accelerate launch` stops the processes of its own machine as soon as one of them ends. Processes of other machines
would wait in a collective operation until it times out, after ten minutes. Therefore a thread of each process writes a
heartbeat to the key-value store of `torch.distributed`, and polls the store for failures and missing heartbeats of the
others. It uses neither the device nor collective operations.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from torch.distributed import PrefixStore, Store, TCPStore
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from core.utils.cli import run, user_message
from smpl_renderer.errors import InputError

HEARTBEAT_INTERVAL = 2.0
"""Seconds between two heartbeats, and between two polls of the store."""
HEARTBEAT_TIMEOUT = 40.0
"""Seconds without a heartbeat after which a process counts as failed."""
FIRST_HEARTBEAT_TIMEOUT = 300.0
"""Seconds to wait for the first heartbeat of a process, which may import its modules over a slow network."""
CONNECT_TIMEOUT = 10.0
"""Seconds that a failing process waits for the store, in order to report the failure."""
FAILURE, DONE = "failure", "done"
"""Key of a failure's message; value in place of a heartbeat once a process has finished."""


def run_distributed(main: Callable[[], object]) -> None:
    """`core.utils.cli.run` for one of several processes: if one fails, all stop and repeat its message."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        run(main)
        return
    monitor = RankMonitor(_connect_store, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    monitor.start()
    try:
        run(main)
    except SystemExit as stop:
        if stop.code not in (0, None):
            monitor.fail(stop.__context__ or stop, stop.code)
    except BaseException as error:  # a bug, or the error of a collective operation after another process has stopped
        if not monitor.another_failed():
            traceback.print_exc()
            monitor.fail(error, 1)
        _exit_process(1)
    monitor.finish()


class RankMonitor(threading.Thread):
    """A thread that writes heartbeats, checks those of the other processes, and stops this process if one has failed.

    Args:
        connect: Opens a connection to the store that all processes share.
        rank: Rank of this process.
        processes: Number of processes.
        exit_process: Stops the process with a given exit status.
    """

    def __init__(
        self,
        connect: Callable[[], Store],
        rank: int,
        processes: int,
        exit_process: Callable[[int], None] | None = None,
    ):
        super().__init__(name="rank monitor", daemon=True)
        self.connect, self.rank, self.exit_process = connect, rank, exit_process or _exit_process
        self.others = [other for other in range(processes) if other != rank]
        self._store: Store | None = None
        self._connected, self._stopped = threading.Event(), threading.Event()
        self._heartbeats: dict[int, tuple[bytes, float]] = {}  # the latest of each other process, and its time

    def run(self) -> None:
        """Write a heartbeat and poll the store until the process finishes or another fails."""
        try:
            self._store = self.connect()
            self._heartbeats = {other: (b"", time.monotonic()) for other in self.others}
            self._connected.set()
            count = 0
            while not self._stopped.wait(HEARTBEAT_INTERVAL):
                count += 1
                self._store.set(f"{self.rank}", f"{count}")
                if reason := self._poll():
                    break
            else:
                return
        except RuntimeError:  # such as torch's DistNetworkError: the store is gone
            reason = "the process that started the run is gone"
            self._connected.set()  # so that `fail` does not wait
        if not self._stopped.is_set():
            sys.stderr.write(f"\nerror: {reason}; process {self.rank} stops\n")
            get_error_handler().record_exception(InputError(reason))  # for `scripts/launch.py`
            self.exit_process(1)

    def fail(self, reason: BaseException, status: int) -> None:
        """Report to the other processes and to the launcher why this process fails, and stop it."""
        self._stopped.set()
        message = user_message(reason)
        get_error_handler().record_exception(InputError(message) if message else reason)  # for `scripts/launch.py`
        self._connected.wait(CONNECT_TIMEOUT)
        self._write(FAILURE, f"process {self.rank} failed: {message or ' '.join(str(reason).split())}")
        self.exit_process(status)

    def another_failed(self) -> bool:
        """True if another process has reported a failure, or the store is gone."""
        try:
            return self._store is not None and self._store.check([FAILURE])
        except RuntimeError:
            return True

    def finish(self) -> None:
        """End the thread, and report that this process has finished."""
        self._stopped.set()
        self.join(CONNECT_TIMEOUT)  # its last heartbeat must not overwrite the report
        self._write(f"{self.rank}", DONE)

    def _poll(self) -> str | None:
        """The reason to stop, if there is one."""
        if self._store.check([FAILURE]):
            return self._store.get(FAILURE).decode()
        for other in self.others:
            heartbeat = self._store.get(f"{other}") if self._store.check([f"{other}"]) else b""
            (before, since), now = self._heartbeats[other], time.monotonic()
            timeout = HEARTBEAT_TIMEOUT if heartbeat else FIRST_HEARTBEAT_TIMEOUT
            if heartbeat != before:
                self._heartbeats[other] = (heartbeat, now)
            elif heartbeat != DONE.encode() and now - since > timeout:
                return f"process {other} has sent no heartbeat for {timeout:.0f} s"
        return None

    def _write(self, key: str, value: str) -> None:
        if self._store is not None:
            with contextlib.suppress(RuntimeError):  # the process that hosts the store may be gone already
                self._store.set(key, value)


def _connect_store() -> Store:
    """A connection to the store of `torch.distributed`, which the launcher or the first process hosts."""
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore("rank_monitor", store)


def _exit_process(status: int) -> None:
    """Exit at once: a regular exit could wait for communication with the other processes without end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
