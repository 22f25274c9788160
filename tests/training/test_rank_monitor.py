"""Processes of a run that look after each other, here as threads that share a store."""

import threading
import time

import pytest
from torch.distributed import HashStore

from core.training import rank_monitor as watch
from core.training.rank_monitor import Watch


@pytest.fixture
def start(monkeypatch):
    """Start the watches of a run of three; each records the status it leaves with."""
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(watch, "PATIENCE", 0.4)
    monkeypatch.setattr(watch, "PATIENCE_AT_FIRST", 3.0)
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


def has_heard(one: Watch, other: int) -> bool:
    return bool(one._heard.get(other, (b"",))[0])


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
    second_is_known = wait_for(lambda: has_heard(first, 1))
    second.finish()
    time.sleep(1.0)  # more than the patience
    assert second_is_known and statuses == {}
    third = start_one(2)
    assert wait_for(lambda: has_heard(first, 2))
    third._over.set()  # dead: no sign of life, and no word
    assert wait_for(lambda: 0 in statuses) and statuses[0] == 1
    assert "process 2 has given no sign of life" in capfd.readouterr().err


def test_a_process_that_never_comes_is_noticed_too(start, monkeypatch, capfd):
    start_one, statuses = start
    monkeypatch.setattr(watch, "PATIENCE_AT_FIRST", 0.5)
    start_one(0), start_one(1)
    assert wait_for(lambda: len(statuses) == 2) and statuses == {0: 1, 1: 1}
    assert "process 2 has given no sign of life" in capfd.readouterr().err


def test_a_failure_of_the_first_seconds_waits_for_the_store(monkeypatch):
    """Data that cannot be read is found before the connection stands."""
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.02)
    store, statuses = HashStore(), []

    def connect_slowly():
        time.sleep(0.3)
        return store

    one = Watch(connect_slowly, 1, 2, leave=statuses.append)
    one.start()
    one.fail(ValueError("frame 0005 is broken"), 2)
    assert statuses == [2] and store.get(watch.FAILURE) == b"process 1 failed: frame 0005 is broken"

    monkeypatch.setattr(watch, "TIME_TO_CONNECT", 0.1)  # nor does it wait for ever
    other = Watch(connect_slowly, 1, 2, leave=statuses.append)
    other.start()
    other.fail(ValueError("frame 0005 is broken"), 3)
    assert statuses == [2, 3]


def test_nothing_is_heard_of_a_process_after_it_is_done(monkeypatch):
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.02)
    writes, in_beat = [], threading.Event()

    class SlowStore:
        def set(self, key: str, value: str) -> None:
            if value != watch.DONE:
                in_beat.set()
                time.sleep(0.3)
            writes.append(value)

        def check(self, keys: list[str]) -> bool:
            return False

    one = Watch(SlowStore, 0, 2)
    one.start()
    assert in_beat.wait(5)
    one.finish()
    one.join(5)
    assert writes[-1] == watch.DONE and len(writes) > 1


def test_a_store_that_is_gone_ends_the_process(monkeypatch, capfd):
    statuses = []

    def gone():
        raise RuntimeError("connection refused")

    one = Watch(gone, 1, 2, leave=statuses.append)
    one.start()
    one.join(5)
    assert statuses == [1] and "the process that started the run is gone; process 1 stops" in capfd.readouterr().err
