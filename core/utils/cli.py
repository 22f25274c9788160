"""What all entry points share."""

import logging
import sys
from collections.abc import Callable

from smpl_renderer.errors import InputError

PLACE = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
"""What the system says to a path that was badly chosen: no right to write there, or a file where a folder must be."""


def run(main: Callable[[], object]) -> None:
    """Run a program's `main`: log to stderr, and turn what the user can mend into one line and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except InputError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
    except PLACE as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"error: {error.filename}: {error.strerror}; choose another place, or mend this one\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
