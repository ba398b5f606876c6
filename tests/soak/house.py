"""Everything that the nights live in: a disk of its own, a log that grows, servers, and a configuration."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import servers
import yaml
from night import REPOSITORY, environment

from soak.run import Broken, Run

_DISK_MB = 3_000
_CONFIG = "soak.yaml"
_JAVA = f"-Dlog4j2.configurationFile=file:{REPOSITORY}/recsys_spark/log4j2.properties -XX:TieredStopAtLevel=1"
"""Compiling well what runs once takes longer than running it."""
_BEFORE = 7
"""Days that the log has before the first night: the gates want some to hold a day against."""


class House:
    """A warehouse with its log and its servers, on a disk that can be filled."""

    def __init__(self, folder: Path, nights: int, seed: int) -> None:
        """Make the disk, generate the log, start the servers; nothing is delivered yet."""
        self.folder, self.disk, self.seed = folder, folder / "disk", seed
        shutil.rmtree(folder / "said", ignore_errors=True)
        (folder / "said").mkdir(parents=True)
        self._mount()
        self.root, self.log, self.source = self.disk / "warehouse/soak", self.disk / "log", self.disk / "source"
        for each in ("log/events", "mlflow", "scratch"):
            (self.disk / each).mkdir(parents=True)
        self.config = self.disk / _CONFIG
        self.mlflow = servers.Mlflow(self.disk / "mlflow")
        self.postgres = servers.Postgres(Path(tempfile.mkdtemp()))  # elsewhere: it is not its disk that gets full
        self.runs = 0
        self._write_config()
        self._generate(nights)
        self.mlflow.start()
        self.postgres.start()

    def _mount(self) -> None:
        """Mount a small disk: a full one is to be a real one."""
        self.disk.mkdir(parents=True, exist_ok=True)
        if os.path.ismount(self.disk):
            subprocess.run(["umount", "--lazy", self.disk], check=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m,mode=0755", "tmpfs", str(self.disk)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Broken(
                f"cannot mount a disk of {_DISK_MB} MB at {self.disk} ({done.stderr.strip()}); "
                "run it as root, in a container for example"
            )

    def _write_config(self) -> None:
        """Write the configuration of the nights: that of conf/soak.yaml, with the addresses of this house."""
        values = {
            "extends": str(REPOSITORY / "conf" / _CONFIG),
            "root": str(self.root),
            "log": {
                "generate": None, "path": str(self.log / "events"), "items": {"path": str(self.log / "items.jsonl")},
            },
            "tracking": {"uri": self.mlflow.address},
            "export": {"postgres": self.postgres.address},
        }  # fmt: skip
        self.config.write_text(yaml.safe_dump(values), encoding="utf-8")

    def _generate(self, nights: int) -> None:
        """Write the whole log aside, from where its days are delivered one by one."""
        conf = yaml.safe_load((REPOSITORY / "conf" / _CONFIG).read_text(encoding="utf-8"))["log"]["generate"]
        days = _BEFORE + 1 + nights
        size = {**conf, "days": days, "events": conf["events"] * days // conf["days"]}
        run = self.job(
            "generate_log", f"log.path={self.source}/events", f"log.generate={size}", f"seed={self.seed}",
            f"tracking.uri=sqlite:///{self.disk}/none.db",
        ).wait()  # fmt: skip
        if run.process.returncode:
            raise Broken(f"the log was not written: {run.error}")
        shutil.copy(self.source / "items.jsonl", self.log)
        found = sorted((self.source / "events").glob("date=*"))
        self.days = [dt.date.fromisoformat(path.name.removeprefix("date=")) for path in found]

    @property
    def first_days(self) -> list[dt.date]:
        """The days before the first night."""
        return self.days[:_BEFORE]

    def raw(self, day: dt.date) -> list[Path]:
        """The files of a day as they were generated."""
        return sorted((self.source / f"events/date={day}").glob("*.jsonl"))

    def delivered(self, day: dt.date) -> Path:
        """The folder that a day is delivered to."""
        return self.log / f"events/date={day}"

    def deliver(self, day: dt.date) -> None:
        """Deliver a day as a producer should: its folder shows up whole, in the place of what stood there."""
        aside = self.log / f"events/.arriving-{day}"
        aside.mkdir()
        for file in self.raw(day):
            shutil.copy(file, aside)
        shutil.rmtree(self.delivered(day), ignore_errors=True)
        os.rename(aside, self.delivered(day))

    def job(self, name: str, *arguments: str, master: str | None = None, **more: str) -> Run:
        """Start a job through spark-submit.

        Args:
            master: a Spark cluster, instead of this machine.
            more: variables of its environment.
        """
        self.runs += 1
        options = ["--master", master or "local[2]", "--driver-memory", "1536m", "--driver-java-options", _JAVA]
        command = ["spark-submit", *options, f"jobs/{name}.py", "--config", str(self.config), *arguments]
        said = self.folder / "said" / f"{self.runs:03}-{name}.log"
        return Run(command, {**self._environment(), **more}, REPOSITORY, said)

    def tool(self, *arguments: str) -> Run:
        """Run `jobs/warehouse.py`, which needs no Spark, to its end."""
        self.runs += 1
        command = [sys.executable, "jobs/warehouse.py", "--config", str(self.config), *arguments]
        said = self.folder / "said" / f"{self.runs:03}-warehouse.log"
        return Run(command, self._environment(), REPOSITORY, said).wait()

    def _environment(self) -> dict[str, str]:
        return {
            **environment(), "PYTHONPATH": str(REPOSITORY), "SPARK_LOCAL_DIRS": str(self.disk / "scratch"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }  # fmt: skip

    @contextlib.contextmanager
    def full_disk(self, left_mb: float) -> Iterator[None]:
        """Fill the disk for a while, but for some MB."""
        ballast = self.disk / "ballast"
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, int(shutil.disk_usage(self.disk).free - left_mb * 2**20))
        try:
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def cluster(self) -> Iterator[str]:
        """Run a Spark master and two workers; yields the master's URL."""
        port = servers.free_port()
        more = {"PORT": str(port), "UI_PORT": str(servers.free_port()), "CLUSTER_DIR": str(self.disk / "cluster")}
        env = {**self._environment(), **more, "WORKER_MEMORY": "2g"}

        def do(action: str) -> None:
            done = subprocess.run(
                ["scripts/cluster.sh", action], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=180
            )
            if done.returncode:
                raise Broken(f"cluster.sh {action}: {done.stdout}{done.stderr}")

        do("start")
        try:
            yield f"spark://127.0.0.1:{port}"
        finally:
            do("stop")
            shutil.rmtree(self.disk / "cluster", ignore_errors=True)

    def close(self, keep: bool) -> None:
        """Stop the servers; give the disk back, unless it is to be looked at."""
        self.mlflow.kill()
        self.postgres.stop()
        shutil.rmtree(self.postgres.folder, ignore_errors=True)
        if not keep:
            for _ in range(50):  # a process that has just ended may still hold a file
                if not subprocess.run(["umount", self.disk], capture_output=True).returncode:
                    break
                time.sleep(0.1)
