"""Child processes."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from core.utils.environment import SIGNALS
from smpl_renderer.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    start: Callable[..., None] | None = None,
    arguments: tuple = (),
) -> Iterator[tuple[Job, "Future[Result]"]]:
    """Call a function for every job in new processes; each job and its outcome, as they are completed.

    If the caller stops early, jobs that have begun are completed and the others left out; after a signal the processes
    are ended.

    Args:
        function: A function of a module.
        jobs: Its arguments.
        workers: Number of processes.
        start: Called in each process first, with `arguments`.
    Raises:
        InputError: If a process has been killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(start, arguments)) as pool:
        futures = {pool.submit(function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                if isinstance(error := future.exception(), BrokenProcessPool):
                    raise error
                yield futures[future], future
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, probably because memory is exhausted; use fewer --workers (what is "
                "complete is kept)"
            ) from error
        finally:
            if SIGNALS.received:
                for process in multiprocessing.active_children():
                    process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)


def end_with_parent() -> None:
    """Exit this process when its parent process has ended, also if that was killed. Otherwise it would wait forever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(start: Callable[..., None] | None, arguments: tuple) -> None:
    end_with_parent()
    if start is not None:
        start(*arguments)
