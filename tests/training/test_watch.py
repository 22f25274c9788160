"""Processes of a run that look after each other, here as threads that share a store."""

import threading
import time

import pytest
from torch.distributed import HashStore

from core.training import watch
from core.training.watch import Watch


@pytest.fixture
def start(monkeypatch):
    """Start the watches of a run of three; each records the status it leaves with."""
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(watch, "PATIENCE", 0.4)
    store, statuses, watches = HashStore(), {}, []

    def start_one(rank: int) -> Watch:
        watches.append(Watch(lambda: store, rank, 3, leave=lambda status: statuses.__setitem__(rank, status)))
        watches[-1].start()
        return watches[-1]

    yield start_one, statuses
    for one in watches:
        one.finish()


def wait_for(condition, seconds: float = 5.0) -> bool:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)
    return condition()


def test_a_failure_reaches_all_with_its_reason(start, capfd):
    start_one, statuses = start
    first, second, third = (start_one(rank) for rank in range(3))
    assert wait_for(lambda: second._store is not None)
    assert not first.another_failed()
    second.fail(ValueError("frame 0005\nis broken"), 2)
    assert first.another_failed()
    assert wait_for(lambda: len(statuses) == 3) and statuses == {0: 1, 1: 2, 2: 1}
    assert "error: process 1 failed: frame 0005 is broken; process 2 stops" in capfd.readouterr().err
    assert isinstance(third, threading.Thread) and third.daemon  # it keeps nobody from leaving


def test_silence_is_noticed_but_not_of_who_is_done_or_has_not_come_yet(start, capfd):
    start_one, statuses = start
    first, second = start_one(0), start_one(1)  # the third is late
    second_is_known = wait_for(lambda: 1 in first._heard)
    second.finish()
    time.sleep(1.0)  # more than the patience
    assert second_is_known and statuses == {}
    third = start_one(2)
    assert wait_for(lambda: 2 in first._heard)
    third._over.set()  # dead: no sign of life, and no word
    assert wait_for(lambda: 0 in statuses) and statuses[0] == 1
    assert "process 2 has given no sign of life" in capfd.readouterr().err


def test_a_store_that_is_gone_ends_the_process(monkeypatch, capfd):
    statuses = []

    def gone():
        raise RuntimeError("connection refused")

    one = Watch(gone, 1, 2, leave=statuses.append)
    one.start()
    one.join(5)
    assert statuses == [1] and "the process that started the run is gone; process 1 stops" in capfd.readouterr().err
