"""A headless Chromium, driven through the pipe of its DevTools protocol; nothing beyond the standard library."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
)


def find_chromium() -> str | None:
    """Path of an installed Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page of a browser, in a profile folder of its own.

    Args:
        profile: Folder for the profile; must not be in use.
        size: Width and height of the window in pixels.
        flags: Further flags.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (800, 800), flags: tuple[str, ...] = ()):
        executable = find_chromium()
        if executable is None:
            raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed")
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        self.log = Path(profile).with_suffix(".log")
        window = f"--window-size={size[0]},{size[1]}"
        # The browser reads commands from descriptor 3 and answers on descriptor 4. The shell moves the pipes there.
        shell = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", shell, executable, *FLAGS, *flags, window, f"--user-data-dir={profile}", "about:blank"],
                pass_fds=(read_commands, write_answers),
                stdout=log,
                stderr=log,
            )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer, self._count, self._session = b"", 0, None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.call("Page.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, timeout: float = 120.0, **params: Any) -> dict[str, Any]:
        """Result of a method of the DevTools protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _read(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                reason = "no answer" if not ready else "the browser has ended"
                raise RuntimeError(f"{method}: {reason}; {self.log.read_text(errors='replace')[-2000:]}")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, url: str) -> None:
        """Go to a page; its scripts may still run."""
        self.call("Page.navigate", url=url)
        while self.evaluate("document.readyState") != "complete":
            time.sleep(0.05)

    def evaluate(self, expression: str, timeout: float = 120.0) -> Any:
        """Value of a JavaScript expression; promises are awaited."""
        result = self.call("Runtime.evaluate", timeout, expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
