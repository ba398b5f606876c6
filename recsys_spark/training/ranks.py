"""The ranks as tasks of the running Spark session, and what is said when one of them fails or dies."""

from __future__ import annotations

import os
import re
from pathlib import Path

from recsys_spark.errors import ConfigError, DataError, RunError, UserError
from recsys_spark.training.job import TrainingJob

_START_TIMEOUT = 120  # seconds for Spark to give all ranks a slot at once


def on_spark(job: TrainingJob, ranks: int) -> None:
    """Run the ranks as tasks of the Spark session.

    Raises:
        ConfigError: Spark has too few slots for all of them at once.
        UserError: a rank failed or died, and so the others ended. Says what the first of them said.
    """
    import horovod.spark
    from pyspark import SparkContext

    from recsys_spark.training import loop

    context = SparkContext.getOrCreate()
    slots = context.defaultParallelism
    if slots < ranks:
        raise ConfigError(
            f"train.ranks={ranks} needs {ranks} task slots at once, Spark has {slots}; lower train.ranks, "
            f"or give Spark more cores (spark.master=local[{ranks}])"
        )
    log = job.folder / "ranks.log"
    try:
        with open(log, "w", encoding="utf-8") as output:
            horovod.spark.run(
                loop.train, args=(job,), num_proc=ranks, start_timeout=_START_TIMEOUT, verbose=0,
                nics={"lo"} if _on_one_machine(context.master) else None,
                env=dict(os.environ), stdout=output, stderr=output,
            )  # fmt: skip
    except Exception as error:
        raise failure(job.model, log, error) from error


def _on_one_machine(master: str) -> bool:
    return master.startswith("local") or "127.0.0.1" in master or "localhost" in master


def failure(model: str, log: Path, error: Exception) -> UserError:
    """Make one line of why the ranks failed, with the exit code that it has where a rank said what is to be done."""
    cause = cause_of(log)
    for kind in (ConfigError, DataError, RunError):
        name = f"{kind.__module__}.{kind.__name__}: "
        if cause.startswith(name):
            return kind(cause.removeprefix(name))
    return RunError(f"training {model} failed: {cause or ' '.join(str(error).split())}; all of it is in {log}")


def cause_of(log: Path) -> str:
    """Find the exception's own line in the ranks' output: the first one that is no answer to another rank's."""
    lines = [
        line.split("<stderr>:")[-1].strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    named = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception)\b", line)]
    own = [line for line in named if "HorovodInternalError" not in line]
    return next(iter(own or named), "")
