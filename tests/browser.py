"""A real browser, for tests and pictures: Chromium without a window, asked over a pipe by its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "this test needs Chromium: apt-get install -y chromium"
    return found


class Browser:
    """One page of a browser; `said` has the events that it sent."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest = read, write, b""
        self._number, self._session = 0, None
        self.said: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Ask for something and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.said.append(answer)

    def open(self, page: Path | str, width: int, scheme: str, height: int = 900) -> None:
        """Load a file or an address at a size, in `light` or `dark`, and wait until it has."""
        self.said.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.as_uri() if isinstance(page, Path) else page)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.said):
            self.said.append(self._next())

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def complaints(self) -> list[str]:
        """What the console has been told of: errors, warnings and exceptions."""
        told = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [json.dumps(e["params"]) for e in self.said if e.get("method") in told]

    def requests(self) -> list[str]:
        """What was loaded."""
        return [e["params"]["request"]["url"] for e in self.said if e.get("method") == "Network.requestWillBeSent"]

    def picture(self, path: Path, whole: bool = True, height: int = 900) -> None:
        """Take a screenshot, of the whole page or of its top."""
        more: dict[str, Any] = {"captureBeyondViewport": whole}
        if not whole:
            width = self.value("innerWidth")
            more["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            more["captureBeyondViewport"] = True
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **more)["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser has gone"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium, and end it and whatever it wrote."""
    to_read, to_write = os.pipe(), os.pipe()
    profile = tempfile.mkdtemp()

    def place() -> None:  # it reads commands from 3 and answers on 4
        os.dup2(to_read[0], 20)
        os.dup2(to_write[1], 21)
        os.dup2(20, 3)
        os.dup2(21, 4)

    command = [
        chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=place, close_fds=False,
        start_new_session=True,
    )  # fmt: skip
    os.close(to_read[0])
    os.close(to_write[1])
    try:
        yield Browser(to_write[0], to_read[1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        os.close(to_read[1])
        os.close(to_write[0])
        shutil.rmtree(profile, ignore_errors=True)
