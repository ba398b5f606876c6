"""The ranks as tasks of the running Spark session, and what is said when one of them fails or dies."""

from __future__ import annotations

import os
import re
from pathlib import Path

from recsys_spark.errors import ConfigError, DataError, RunError, UserError
from recsys_spark.training.job import TrainingJob

_START_TIMEOUT = 120  # seconds for Spark to give all ranks a slot at once
_LINE = re.compile(r"\[(?P<rank>\d+)\]<stderr>:\s*(?P<error>[A-Za-z_][\w.]*(Error|Exception)\b.*)")
"""A line of the ranks' output that names an error."""
_ANSWERS = ("HorovodInternalError", "Horovod has been shut down", "gloo/transport")
"""What a rank says that lost another one, by itself or by the socket between them: its error is no cause."""


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
        raise failure(job.model, log, error, ranks) from error


def _on_one_machine(master: str) -> bool:
    return master.startswith("local") or "127.0.0.1" in master or "localhost" in master


def failure(model: str, log: Path, error: Exception, ranks: int) -> UserError:
    """Make one line of why the ranks failed, with the exit code that it has where a rank said what is to be done."""
    said = [_LINE.match(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    named = [(int(found["rank"]), found["error"].strip()) for found in said if found]
    own = [text for _, text in named if not any(answer in text for answer in _ANSWERS)]
    silent = sorted(set(range(ranks)) - {rank for rank, _ in named})
    for text in own:  # one that is the user's to mend stands below the error that it was raised from
        for kind in (ConfigError, DataError, RunError):
            name = f"{kind.__module__}.{kind.__name__}: "
            if text.startswith(name):
                return kind(text.removeprefix(name))
    if own:
        cause = own[0]
    elif silent and named:
        cause = (
            f"rank {silent[0]} died without a word, so something killed it; if memory ran out, "
            "lower the model's batch_size or train.ranks, else run the same command again"
        )
    else:
        cause = named[0][1] if named else " ".join(str(error).split())
    return RunError(f"training {model} failed: {cause}; the ranks' output is in {log}")
