"""Failures and missing heartbeats of the processes of a run, here threads that share a store."""

import threading
import time

import pytest
from torch.distributed import HashStore

from core.training import rank_monitor
from core.training.rank_monitor import RankMonitor


@pytest.fixture
def start(monkeypatch):
    """Start the monitors of a run of three processes; each records its exit status."""
    monkeypatch.setattr(rank_monitor, "HEARTBEAT_INTERVAL", 0.02)
    monkeypatch.setattr(rank_monitor, "HEARTBEAT_TIMEOUT", 0.4)
    monkeypatch.setattr(rank_monitor, "FIRST_HEARTBEAT_TIMEOUT", 3.0)
    store, statuses, monitors = HashStore(), {}, []

    def start_one(rank: int) -> RankMonitor:
        monitors.append(RankMonitor(lambda: store, rank, 3, exit_process=lambda s: statuses.__setitem__(rank, s)))
        monitors[-1].start()
        return monitors[-1]

    yield start_one, statuses
    for monitor in monitors:
        monitor.finish()


def wait_for(condition, seconds: float = 5.0) -> bool:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)
    return condition()


def has_heartbeat_of(monitor: RankMonitor, other: int) -> bool:
    return bool(monitor._heartbeats.get(other, (b"",))[0])


def test_a_failure_stops_all_processes_with_its_reason(start, capfd):
    start_one, statuses = start
    first, second, third = (start_one(rank) for rank in range(3))
    assert wait_for(lambda: second._store is not None)
    assert not first.another_failed()
    second.fail(ValueError("frame 0005\nis broken"), 2)
    assert first.another_failed()
    assert wait_for(lambda: len(statuses) == 3) and statuses == {0: 1, 1: 2, 2: 1}
    assert "error: process 1 failed: frame 0005 is broken; process 2 stops" in capfd.readouterr().err
    assert isinstance(third, threading.Thread) and third.daemon  # it does not keep the process from exiting


def test_a_missing_heartbeat_stops_the_others_unless_the_process_is_done_or_late(start, capfd):
    start_one, statuses = start
    first, second = start_one(0), start_one(1)  # the third is late
    second_is_known = wait_for(lambda: has_heartbeat_of(first, 1))
    second.finish()
    time.sleep(1.0)  # longer than the timeout
    assert second_is_known and statuses == {}
    third = start_one(2)
    assert wait_for(lambda: has_heartbeat_of(first, 2))
    third._stopped.set()  # as if killed: no further heartbeat, and no report
    assert wait_for(lambda: 0 in statuses) and statuses[0] == 1
    assert "process 2 has sent no heartbeat" in capfd.readouterr().err


def test_a_process_that_never_starts_stops_the_others(start, monkeypatch, capfd):
    start_one, statuses = start
    monkeypatch.setattr(rank_monitor, "FIRST_HEARTBEAT_TIMEOUT", 0.5)
    start_one(0), start_one(1)
    assert wait_for(lambda: len(statuses) == 2) and statuses == {0: 1, 1: 1}
    assert "process 2 has sent no heartbeat" in capfd.readouterr().err


def test_a_failure_before_the_connection_waits_for_the_store(monkeypatch):
    """Unreadable data is found before the connection is established."""
    monkeypatch.setattr(rank_monitor, "HEARTBEAT_INTERVAL", 0.02)
    store, statuses = HashStore(), []

    def connect_slowly():
        time.sleep(0.3)
        return store

    monitor = RankMonitor(connect_slowly, 1, 2, exit_process=statuses.append)
    monitor.start()
    monitor.fail(ValueError("frame 0005 is broken"), 2)
    assert statuses == [2] and store.get(rank_monitor.FAILURE) == b"process 1 failed: frame 0005 is broken"

    monkeypatch.setattr(rank_monitor, "CONNECT_TIMEOUT", 0.1)  # the wait is limited
    other = RankMonitor(connect_slowly, 1, 2, exit_process=statuses.append)
    other.start()
    other.fail(ValueError("frame 0005 is broken"), 3)
    assert statuses == [2, 3]


def test_done_is_the_last_write_of_a_process(monkeypatch):
    monkeypatch.setattr(rank_monitor, "HEARTBEAT_INTERVAL", 0.02)
    writes, in_beat = [], threading.Event()

    class SlowStore:
        def set(self, key: str, value: str) -> None:
            if value != rank_monitor.DONE:
                in_beat.set()
                time.sleep(0.3)
            writes.append(value)

        def check(self, keys: list[str]) -> bool:
            return False

    monitor = RankMonitor(SlowStore, 0, 2)
    monitor.start()
    assert in_beat.wait(5)
    monitor.finish()
    monitor.join(5)
    assert writes[-1] == rank_monitor.DONE and len(writes) > 1


def test_a_lost_store_stops_the_process(monkeypatch, capfd):
    statuses = []

    def gone():
        raise RuntimeError("connection refused")

    monitor = RankMonitor(gone, 1, 2, exit_process=statuses.append)
    monitor.start()
    monitor.join(5)
    assert statuses == [1] and "the process that started the run is gone; process 1 stops" in capfd.readouterr().err
