"""What a job leaves for those who watch it: JSON lines, figures for Prometheus, and how it ended.

| where | what | who reads it |
|---|---|---|
| `observability.log` | a JSON object for every line of stderr, and for the job's begin and end | a log shipper |
| `observability.metrics` | see `prometheus.py` | the node exporter |
| the file that `RECSYS_STATUS` names | how the job ended: exit code, error, last line, MLflow run | the scheduler |

None of them can make a job fail: a full disk of logs is no reason not to publish. The run id is `RECSYS_RUN_ID`, where
a scheduler gives one, so that the lines of all jobs of a night are found together.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recsys_spark.config import Config
from recsys_spark.pipeline import prometheus
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.pipeline.redaction import redacted, without_secrets
from recsys_spark.training.launch import is_rank_zero

RUN_ID, STATUS = "RECSYS_RUN_ID", "RECSYS_STATUS"


class Watch:
    """Writes down what one job does; before `follow` it has nothing but the scheduler's file."""

    def __init__(self, job: str, run_date: str | None) -> None:
        self.job, self.run_date = job, run_date
        self.run_id = os.environ.get(RUN_ID) or uuid.uuid4().hex[:12]
        self.config: Config | None = None
        self.context: Context | None = None

    @contextlib.contextmanager
    def follow(self, context: Context) -> Iterator[None]:
        """Write every line of stderr down, for as long as the job runs."""
        self.context, self.config = context, context.config
        before = sys.stderr
        path = self.config.observability.log
        if path is not None:
            self._log("info", "started")
            sys.stderr = _Tee(before, lambda line: self._log(_level(line), line))
        try:
            yield
        finally:
            sys.stderr = before

    def done(self, result: StageResult, line: str, seconds: float) -> None:
        """Write down that the job went well."""
        self._log("info", "finished", seconds=round(seconds, 3), counts=result.counts, metrics=result.metrics)
        self._metrics(result, seconds)
        self._end(0, None, line)

    def failed(self, code: int, message: str) -> int:
        """Say on stderr why the job failed, write it down, and return its exit code."""
        line = without_secrets(message)
        print(f"error: {line}", file=sys.stderr)
        self._log("error", line, exit_code=code)
        self._end(code, line, None)
        return code

    def _log(self, level: str, message: str, **more: Any) -> None:
        path = self.config.observability.log if self.config else None
        if path is None:
            return
        record = {
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), "level": level, "run": self.run_id,
            "stage": self.job, "run_date": self._day(), "message": message, **more,
        }  # fmt: skip
        with self._never_fails(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:  # one write: lines of jobs beside each other stay whole
                file.write(json.dumps(redacted(record), default=str) + "\n")

    def _metrics(self, result: StageResult, seconds: float) -> None:
        folder = self.config.observability.metrics if self.config else None
        if folder is None or self.config is None:
            return
        name, samples = self.config.name, []
        stages = result.stages or {self.job: (result, seconds)}
        for stage, (part, took) in stages.items():
            samples += prometheus.of_stage(name, stage, part.counts, part.metrics, took)
            if stage == "check_log":
                samples += prometheus.of_gates(name, part.metrics, part.outputs.get("warned", []))
        own = {"dataset": name, "stage": self.job}
        samples.append(("recsys_last_success_seconds", own, time.time()))
        if self._day() is not None:
            day = dt.datetime.fromisoformat(f"{self._day()}T00:00:00+00:00")
            samples.append(("recsys_run_date_seconds", own, day.timestamp()))
        with self._never_fails(folder):
            prometheus.write(Path(folder), f"recsys_{name}_{self.job}", samples)

    def _end(self, code: int, error: str | None, line: str | None) -> None:
        if not is_rank_zero():  # under horovodrun one process speaks for all
            return
        config = self.config
        if config is not None and config.observability.metrics is not None:
            own = {"dataset": config.name, "stage": self.job}
            samples = [("recsys_exit_code", own, float(code)), ("recsys_last_run_seconds", own, time.time())]
            with self._never_fails(config.observability.metrics):
                prometheus.write(Path(config.observability.metrics), f"recsys_{config.name}_{self.job}_run", samples)
        path = os.environ.get(STATUS)
        if path:
            status = {
                "stage": self.job, "run_date": self._day(), "exit_code": code, "error": error,
                "last_line": json.loads(line) if line else None, "mlflow": self._run(),
            }  # fmt: skip
            with self._never_fails(path):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(json.dumps(redacted(status), default=str), encoding="utf-8")

    def _day(self) -> str | None:
        night = self.context.night if self.context else None
        return str(night) if night else self.run_date

    def _run(self) -> dict[str, str] | None:
        """Say where the night's MLflow run is, if this job had one."""
        run = self.context.parent if self.context else None
        return {"experiment": run.store.experiment_id, "run": run.run_id} if run else None

    @contextlib.contextmanager
    def _never_fails(self, where: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            print(f"warning: {where}: cannot be written: {error.strerror}", file=sys.__stderr__)


class _Tee(io.TextIOBase):
    """Passes text on as it comes, and whole lines of it to somebody else as well."""

    def __init__(self, to: Any, on_line: Callable[[str], None]) -> None:
        self.to, self.on_line, self.rest = to, on_line, ""

    def write(self, text: str) -> int:
        self.to.write(text)
        *lines, self.rest = (self.rest + text).replace("\r", "\n").split("\n")
        for line in lines:
            if line.strip():
                self.on_line(line.strip())
        return len(text)

    def flush(self) -> None:
        self.to.flush()

    def isatty(self) -> bool:
        return bool(self.to.isatty())

    def fileno(self) -> int:
        return int(self.to.fileno())


def _level(line: str) -> str:
    start = line.split(":")[0].lower()
    return start if start in ("error", "warning") else "info"
