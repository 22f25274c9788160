"""Entry points: errors that a user can mend end in one line and exit status 2, and in no half-written file."""

import errno
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from forked_script import run_script
from safetensors import SafetensorError

from core.utils import environment
from core.utils.cli import command_line, run
from core.utils.ranges import Count, Positive, checked
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY, atomic_path


def error_line(main, capsys) -> str:
    """The line that a failing program writes."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert "delete" not in message and "remove" not in message
    return message


def raising(error: BaseException):
    def main():
        raise error

    return main


def test_input_errors_become_one_line(capsys):
    assert error_line(raising(InputError("a.npz: broken\n  in two lines")), capsys) == (
        "error: a.npz: broken in two lines\n"
    )
    line = error_line(raising(InputError("a  b\x1b[31m\tc: missing")), capsys)
    assert line == "error: a  b\\x1b[31m\\x09c: missing\n"  # names keep their spaces, and control nothing


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "free some space"),
        (errno.EROFS, "can be written to"),
        (errno.ENAMETOOLONG, "shorter path"),
        (errno.EACCES, "permissions"),
        (errno.EEXIST, "another place"),
        (errno.EINVAL, "this file system allows"),
        (errno.EIO, "check the disk"),
        (errno.EMFILE, "number of workers"),
        (errno.EAGAIN, "number of workers"),
        (errno.ENOMEM, "number of workers"),
    ],
)
def test_errors_of_the_system_become_one_line(number, remedy, capsys):
    line = error_line(raising(OSError(number, os.strerror(number), "out\nput/a b.ply")), capsys)
    assert line.startswith(f"error: out put/a b.ply: {os.strerror(number)}; ") and remedy in line


def test_errors_of_the_system_without_a_path_become_one_line(capsys):
    line = error_line(raising(OSError(errno.ENOSPC, "No space left on device")), capsys)
    assert line.startswith("error: No space left on device; ")
    text = "Caught OSError in DataLoader worker process 0.\nOriginal Traceback:\n  File\nOSError: [Errno 24] Too many"
    assert "Too many; lower the number of workers" in error_line(raising(OSError(text)), capsys)


def test_a_place_that_cannot_be_written_becomes_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    line = error_line((tmp_path / "file" / "results").mkdir, capsys)
    assert line.startswith(f"error: {tmp_path / 'file' / 'results'}: ")
    assert "shorter path" in error_line((tmp_path / ("a" * 300)).mkdir, capsys)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left (28)"),
            "--shm-size",
        ),
        (RuntimeError("unable to mmap 4 bytes from file </torch_1>: Cannot allocate memory in shared memory"), "shm"),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
                "workers are out of shared memory. Please try to raise your shared memory limit."
            ),
            "--data.num-workers 0",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "lower --data.num-workers"),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "RuntimeError: unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
            ),
            "</torch_1>",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
            "sizes",
        ),
        (RuntimeError("Storage size calculation overflowed with sizes=[1, 2]"), "sizes"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0"), "batch size"),
        (MemoryError(), "sizes"),
        (ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum"), "sizes"),
    ],
)
def test_exhausted_memory_becomes_one_line(error, remedy, capsys):
    assert remedy in error_line(raising(error), capsys)


def test_sizes_beyond_the_memory_become_one_line(capsys):
    """Messages of this version of PyTorch and NumPy."""
    assert "memory is exhausted" in error_line(lambda: torch.empty(2**60, dtype=torch.uint8), capsys)
    assert "memory is exhausted" in error_line(lambda: torch.empty(2**62, 2**62), capsys)
    assert "memory is exhausted" in error_line(lambda: np.empty(2**60, np.uint8), capsys)


@pytest.mark.parametrize(
    "error",
    [KeyError("bug"), RuntimeError("shapes differ"), OSError(errno.EPIPE, "Broken pipe"), FileNotFoundError("a")],
)
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run(raising(error))


def test_errors_of_writers_name_the_file_and_leave_none(tmp_path):
    """Writers raise errors of their own, or do not know the path."""
    path = tmp_path / "a.pt"
    errors = {
        errno.ENOSPC: [
            OSError(errno.ENOSPC, "No space left on device"),
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ],
        errno.EIO: [RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")],
    }
    for number, raised in errors.items():
        for error in raised:
            with pytest.raises(OSError) as caught, atomic_path(path) as temporary:
                temporary.write_bytes(b"half")
                raise error
            assert (caught.value.errno, caught.value.filename) == (number, str(path))
    with pytest.raises(RuntimeError, match="bug"), atomic_path(path):
        raise RuntimeError("bug")
    with pytest.raises(FileNotFoundError) as caught, atomic_path(path):
        (tmp_path / "input").read_bytes()
    assert caught.value.filename == str(tmp_path / "input")
    assert not list(tmp_path.iterdir())


def test_names_of_the_maximum_length_are_written(tmp_path):
    for name in ("a" * 255, "é" * 125 + ".json", "a" * 250 + ".json"):
        for _ in range(2):
            with atomic_path(tmp_path / name) as temporary:
                temporary.write_text(name)
        with atomic_path(tmp_path / "folder" / name) as temporary:
            temporary.mkdir()
            (temporary / "file").touch()
        with atomic_path(tmp_path / "folder" / name) as temporary:
            temporary.mkdir()
        assert (tmp_path / name).read_text() == name and not list((tmp_path / "folder" / name).iterdir())
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["main.py", "demo", "--lr", "-0.001"],
        ["main.py", "demo", "--data.num-workers", "-1"],
        ["main.py", "demo", "--model.graph.neighbors", "0"],
        ["infer.py", "--video-size", "-64"],
        ["vertex_connectivity.py", "--num-neighbors", "0"],
        ["vertex_connectivity.py", "--num-neighbors", "1000000"],
    ],
)
def test_numbers_out_of_range_are_one_line(arguments, tmp_path):
    name, value = arguments[-2:]
    done = run_script(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {name} must be ") and f"got {value}" in done.stderr
    assert not list(tmp_path.iterdir())


def test_arguments_of_functions_are_checked():
    seen = []

    @checked
    def main(count: Count, rate: Positive = 1.0, sizes: tuple[Count, ...] = (), limit: Count | None = None) -> None:
        """A script."""
        seen.append((count, rate, sizes, limit))

    main(1, sizes=(1, 2), limit=3)
    assert seen == [(1, 1.0, (1, 2), 3)] and main.__doc__ == "A script."
    for arguments, message in (
        ({"count": 0}, "--count must be at least 1, got 0"),
        ({"count": 1, "rate": 0.0}, "--rate must be above 0, got 0"),
        ({"count": 1, "rate": float("nan")}, "--rate must be a finite number, got nan"),
        ({"count": 1, "sizes": (1, -2)}, "--sizes must be at least 1, got -2"),
        ({"count": 1, "limit": 0}, "--limit must be at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            main(**arguments)
    assert len(seen) == 1


def test_earlier_spellings_of_flags_are_accepted(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main.py", "demo", "--loss.tie", "0.1", "--no_record", "--record=x"])
    assert command_line() == ["demo", "--loss.surface-distance", "0.1", "--no-cuda-graphs", "--cuda-graphs=x"]
    assert "--loss.tie is now --loss.surface-distance" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_remedy(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "av") else find(name))
    with pytest.raises(SystemExit) as stopped:
        environment.require()
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message.startswith("missing torch, av: ") and "setup.sh" in message and message.count("\n") == 1


def test_missing_packages_are_named_in_a_bare_python():
    """-S disables installed packages."""
    script = REPOSITORY / "vertex_connectivity.py"
    done = subprocess.run([sys.executable, "-S", str(script)], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 2
    assert done.stderr.startswith("missing torch, ") and done.stderr.count("\n") == 1


def test_waiting_is_passive_unless_the_user_sets_it(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    environment.require()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    environment.require()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
