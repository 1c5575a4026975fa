"""A headless Chromium from PATH, driven over its DevTools protocol through a pair of pipes: no driver, no package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDTH = 900  # of the page, in pixels
# The browser reads its commands from descriptor 3 and answers on 4.
LAUNCHER = """import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(pipes[0], 3), os.dup2(pipes[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])"""


def installed() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. Every call waits for the browser's answer; what takes longer than `timeout` seconds fails."""

    def __init__(self, commands: int, answers: int, timeout: float) -> None:
        self._commands, self._answers, self._timeout = commands, answers, timeout
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=900, deviceScaleFactor=1, mobile=False)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self._timeout
        while (answer := self._next(deadline)).get("id") != self._number:  # events come between
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            read = os.read(self._answers, 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        content: dict[str, Any] = json.loads(message)
        return content

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """What an expression of the page gives; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + self._timeout
        while not self.value(f"Boolean({script})"):
            assert time.monotonic() < deadline, (
                f"never came: {script}; the page: {self.value('document.body.innerText')}"
            )
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Replace the text of an input by what a user types."""
        self.click(selector)
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
            )

    def drop(self, selector: str, file: Path) -> None:
        x, y = self._middle(selector)
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector: str, file: Path) -> None:
        """A file in the dialog of a file input."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])

    def screenshot(self) -> bytes:
        """The page from its top to its last line, as PNG."""
        height = self.value("Math.ceil(document.body.getBoundingClientRect().bottom + scrollY)")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height + 24, "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", clip=clip)["data"])

    def _middle(self, selector: str) -> tuple[float, float]:
        box = self.value(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
            f" return [b.x + b.width / 2, b.y + b.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        return box[0], box[1]


@contextlib.contextmanager
def page(scratch: Path, *, timeout: float = 60.0) -> Iterator[Page]:
    """A tab of a browser of its own, whose profile lies in `scratch`."""
    binary = installed()
    assert binary, f"none of {', '.join(NAMES)} on PATH"
    child_reads, commands = os.pipe()
    answers, child_writes = os.pipe()
    options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={scratch}", "--disable-gpu", "--no-first-run"]
    options += ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    launcher = [sys.executable, "-c", LAUNCHER, str(child_reads), str(child_writes)]
    with (scratch / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            [*launcher, binary, *options], pass_fds=(child_reads, child_writes), stdout=log, stderr=log
        )
    try:
        os.close(child_reads)
        os.close(child_writes)
        yield Page(commands, answers, timeout)
    finally:
        process.terminate()
        process.wait(20)
        os.close(commands)
        os.close(answers)
