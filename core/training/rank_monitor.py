"""All processes of a run stop when one of them fails, on whichever machine, and say why.

`accelerate launch` stops the processes of its own machine as soon as one of them ends. Those of other machines would
wait for it in a collective operation until that times out, after ten minutes. So a thread of each process writes a sign
of life to the store at which the processes have met, and looks there for a message of another, or for silence. It
touches neither the device nor the collective operations.
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

from core.utils.cli import run
from smpl_renderer.errors import InputError

LOOK_EVERY = 2.0
"""Seconds between two looks at the store."""
PATIENCE = 40.0
"""Seconds of silence after which a process is taken to be gone."""
PATIENCE_AT_FIRST = 300.0
"""The same for one that has not been heard of at all: reading Python's modules over a slow network takes its time."""
TIME_TO_CONNECT = 10.0
"""Seconds that a process which fails at once waits for the store, to say so to the others."""
FAILURE, DONE = "failure", "done"


def run_together(main: Callable[[], object]) -> None:
    """`core.utils.cli.run` for one of several processes: where one fails, all stop, and repeat its message."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        run(main)
        return
    watch = Watch(_meeting_point, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    watch.start()
    try:
        run(main)
    except SystemExit as left:
        if left.code not in (0, None):
            watch.fail(left.__context__ or left, left.code)
    except BaseException as error:  # a bug, or what a collective operation says when another process is gone
        if not watch.another_failed():
            traceback.print_exc()
            watch.fail(error, 1)
        _leave(1)
    watch.finish()


class Watch(threading.Thread):
    """Signs of life to the other processes of a run, and looks at theirs. Stops this process when one has failed.

    Args:
        connect: Makes a connection of its own to the store that all processes share.
        rank: Of this process.
        processes: How many there are.
        leave: How to stop; takes the exit status.
    """

    def __init__(
        self, connect: Callable[[], Store], rank: int, processes: int, leave: Callable[[int], None] | None = None
    ):
        super().__init__(name="watch", daemon=True)
        self.connect, self.rank, self.leave = connect, rank, leave or _leave
        self.others = [other for other in range(processes) if other != rank]
        self._store: Store | None = None
        self._connected, self._over = threading.Event(), threading.Event()
        self._heard: dict[int, tuple[bytes, float]] = {}  # the last sign of life of each other process, and when

    def run(self) -> None:
        try:
            self._store = self.connect()
            self._heard = {other: (b"", time.monotonic()) for other in self.others}
            self._connected.set()
            beat = 0
            while not self._over.wait(LOOK_EVERY):
                beat += 1
                self._store.set(f"{self.rank}", f"{beat}")
                if reason := self._look():
                    break
            else:
                return
        except RuntimeError:  # torch's DistNetworkError and others: nobody answers any more
            reason = "the process that started the run is gone"
            self._connected.set()  # there is nothing to wait for
        if not self._over.is_set():
            sys.stderr.write(f"\nerror: {reason}; process {self.rank} stops\n")
            get_error_handler().record_exception(InputError(reason))  # for `scripts/launch.py`
            self.leave(1)

    def fail(self, reason: BaseException, status: int) -> None:
        """Let the others and the launcher know why this process fails, and leave."""
        self._over.set()
        get_error_handler().record_exception(reason)  # for `scripts/launch.py`
        self._connected.wait(TIME_TO_CONNECT)
        self._write(FAILURE, f"process {self.rank} failed: {' '.join(str(reason).split())}")
        self.leave(status)

    def another_failed(self) -> bool:
        """Whether another process has said so."""
        try:
            return self._store is not None and self._store.check([FAILURE])
        except RuntimeError:
            return True

    def finish(self) -> None:
        """This process needs the others no more, nor they it."""
        self._over.set()
        self.join(TIME_TO_CONNECT)  # its last sign of life must not come after this
        self._write(f"{self.rank}", DONE)

    def _look(self) -> str | None:
        """Why to stop, if there is a reason."""
        if self._store.check([FAILURE]):
            return self._store.get(FAILURE).decode()
        for other in self.others:
            sign = self._store.get(f"{other}") if self._store.check([f"{other}"]) else b""
            (before, since), now = self._heard[other], time.monotonic()
            patience = PATIENCE if sign else PATIENCE_AT_FIRST
            if sign != before:
                self._heard[other] = (sign, now)
            elif sign != DONE.encode() and now - since > patience:
                return f"process {other} has given no sign of life for {patience:.0f} s"
        return None

    def _write(self, key: str, value: str) -> None:
        if self._store is not None:
            with contextlib.suppress(RuntimeError):  # the others may be gone already
                self._store.set(key, value)


def _meeting_point() -> Store:
    """The store of the launcher, or of the first process, at which `torch.distributed` meets too."""
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore("watch", store)


def _leave(status: int) -> None:
    """End at once: the usual way out could wait for communication with the others, for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
