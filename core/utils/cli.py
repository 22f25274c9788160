"""Running an entry point: logging, earlier spellings of flags, and errors in one line."""

import contextlib
import errno
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from core.utils.aliases import current_flags
from core.utils.environment import SIGNALS
from smpl_renderer.errors import InputError

_STORAGE_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space, or choose a place with more"),
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EROFS: "choose a place that can be written to",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "choose another place, or change its permissions"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP), "choose another place"),
    **dict.fromkeys((errno.EINVAL, errno.EILSEQ), "choose a path that this file system allows"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "check the disk or the network, then run this again"),
}
"""Remedies for errors of the file system by their number."""
_RESOURCE_REMEDIES = {
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "lower the number of workers, or raise the limit (ulimit -n)"),
    errno.EAGAIN: "lower the number of workers, or raise the limit of processes (ulimit -u)",
    errno.ENOMEM: "lower the number of workers, the batch size or the image sizes",
}
"""Remedies for exhausted resources by the number of the error."""
_NEEDS_PATH = {errno.EACCES, errno.EPERM, errno.EEXIST, errno.EINVAL}
"""Errors that can have other causes than a path; without a path they are not reported in one line."""

_WORKER_REMEDY = "lower --data.num-workers or --batch-size"
_RUNTIME_ERRORS = (
    (
        r"unable to (allocate|mmap|open|resize|write).* shared memory|shared memory \(shm\)|out of shared memory",
        "the shared memory of the workers (/dev/shm) is exhausted",
        f"{_WORKER_REMEDY}, set --data.num-workers 0, or enlarge it (docker run --shm-size)",
    ),
    (
        r"DataLoader worker .*(killed by signal|exited unexpectedly)",
        "a worker was stopped by the system, probably because memory is exhausted",
        _WORKER_REMEDY,
    ),
    (
        r"CUDA out of memory|CUDA error: out of memory|CUDNN_STATUS_ALLOC_FAILED",
        "the memory of the GPU is exhausted",
        "lower the batch size, the number of views or frames, or the image sizes",
    ),
    (
        r"can't allocate memory|not enough memory|[Ss]torage size calculation overflow|integer multiplication overflow"
        r"|array is too big|Maximum allowed dimension",
        "the memory is exhausted",
        "lower the sizes and counts among the options",
    ),
)
"""Patterns of messages of PyTorch and NumPy, what they mean, and a remedy."""


def run(main: Callable[[], object]) -> None:
    """Run the `main` of a program: log to stderr; errors that a user can mend end in one line and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("torch").setLevel(logging.WARNING)  # as PyTorch does, also if its import is interrupted
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be valid text
    before, threading.excepthook = threading.excepthook, _report_thread_error
    try:
        SIGNALS.is_raised = True
        main()
        _flush()
    except KeyboardInterrupt:
        raise SystemExit(SIGNALS.report()) from None
    except SystemExit:  # of --help, for example
        _flush()
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader():
            _exit_without_reader()
        if SIGNALS.received:  # an error that the interruption has caused, as of modules that are half imported
            raise SystemExit(SIGNALS.report()) from None
        message = user_message(error)
        if message is None:
            raise
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(2) from None
    finally:
        SIGNALS.is_raised = False
        threading.excepthook = before


def _flush() -> None:
    """Write what is buffered for stdout. If its reader has ended (`| head`), exit with the status of SIGPIPE."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _exit_without_reader()


def _has_no_reader() -> bool:
    """True if stdout is a pipe whose reader has ended."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError):  # not a file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _exit_without_reader() -> NoReturn:
    # Python would write the rest at its exit, and report the error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(128 + signal.SIGPIPE) from None


def command_line() -> list[str]:
    """Arguments of this program, with earlier spellings of flags replaced and reported."""
    arguments, messages = current_flags(sys.argv[1:])
    for message in messages:
        sys.stderr.write(f"{message}\n")
    return arguments


def user_message(error: BaseException) -> str | None:
    """Describe an error that a user can mend in one line, with a remedy; None for other errors, which are bugs."""
    if isinstance(error, InputError):
        return one_line(str(error))
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return one_line(f"{error.object!r} is not a valid text; give the files and folders of that path names in UTF-8")
    if isinstance(error, RuntimeError | ValueError | MemoryError):
        text = "not enough memory" if isinstance(error, MemoryError) else str(error)
        for pattern, reason, remedy in _RUNTIME_ERRORS:
            if re.search(pattern, text):
                return one_line(f"{reason} ({_relevant_line(str(error) or text)}); {remedy}")
    return None


def one_line(text: str) -> str:
    """The text without line breaks, and with other control characters escaped."""
    text = re.sub(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*", " ", text.strip())
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", text)


def _describe_os_error(error: OSError) -> str | None:
    number, reason = error.errno, error.strerror
    # A DataLoader raises a worker's error with its text only.
    if number is None and (match := re.search(r"\[Errno (\d+)\] [^\n]*", str(error))):
        number, reason = int(match[1]), match[0]
    remedy = _STORAGE_REMEDIES.get(number) or _RESOURCE_REMEDIES.get(number)
    if remedy is None or (error.filename is None and error.errno in _NEEDS_PATH):
        return None
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return one_line(f"{where}{reason}; {remedy}")


def _relevant_line(text: str) -> str:
    """The first line of a message; the last if it is a worker's traceback."""
    lines = text.strip().splitlines()
    return lines[-1 if lines[0].startswith("Caught ") else 0].strip()[:200]


def _report_thread_error(details: threading.ExceptHookArgs) -> None:
    """Report a thread's error, unless it is one that the main thread reports, too, when it next uses the thread."""
    if details.exc_value is None or user_message(details.exc_value) is None:
        threading.__excepthook__(details)
