"""A job under way, in a process group of its own; what it says is in one file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

_LONGEST = 600.0
"""Seconds that a job of the soak may take."""
_POLL = 0.05  # real processes: there is nothing to wait on


FIRST_EPOCH = r"train neumf:[^\n]*\| [1-9]\d*/"
"""What the progress of a training says when its first epoch is over."""


class Broken(AssertionError):
    """Something is not as it should be; says what."""


class Run:
    """A job under way, or over."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, said: Path) -> None:
        self.said, self.began = said, time.monotonic()
        with open(said, "wb") as out:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    @property
    def text(self) -> str:
        """All that it has said so far; spark-submit puts a job's messages on its stdout."""
        return self.said.read_text(encoding="utf-8", errors="replace")

    @property
    def error(self) -> str:
        """The one line that says why it failed."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else ""

    @property
    def last_line(self) -> dict[str, Any]:
        return json.loads(self.text.strip().splitlines()[-1])

    @property
    def trace(self) -> bool:
        """Whether it showed a stack trace of its own, as for an error without a known cause; Spark logs some, too."""
        return 'pipeline/job.py", line' in self.text

    def wait(self) -> Run:
        """Wait for its end, and for that of everything that it started."""
        try:
            self.process.wait(max(1.0, self.began + _LONGEST - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            raise Broken(f"{self.said.name}: did not end within {_LONGEST:.0f} s") from None
        return self

    def reach(self, pattern: str, least: float = 0.0) -> Run:
        """Wait until it says what the pattern matches, and `least` seconds more."""
        while not re.search(pattern, self.text):
            if self.process.poll() is not None:
                raise Broken(f"ended before it said {pattern!r}: {self.error or self.text[-300:]}")
            if time.monotonic() > self.began + _LONGEST:
                self.kill()
                raise Broken(f"never said {pattern!r}")
            time.sleep(_POLL)
        time.sleep(least)
        return self

    def stage(self, name: str, least: float = 0.0) -> Run:
        """Wait until a night is `least` seconds into a stage."""
        return self.reach(rf"\] {name} …", least)

    def family(self) -> list[psutil.Process]:
        """The processes that it consists of, its first one included."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """End all of it with SIGKILL, and see that nothing of it is left."""
        family = self.family()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, 30)
        self.process.wait()
