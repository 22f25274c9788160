"""Child processes."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Exit this process when its parent process has ended, also if that was killed. Otherwise it would wait forever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
