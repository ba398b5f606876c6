"""Erase people: what the job `erase_user` is asked, and what it answers."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from pathlib import Path

from recsys_spark.erasure.erase import erase
from recsys_spark.erasure.record import PROOF
from recsys_spark.errors import ConfigError
from recsys_spark.pipeline.context import Context, StageResult

OPTIONS = {
    "--user": "a user id as the log has it; may be given several times. Other users of the machine can read it from "
    "the list of processes",
    "--users-file": "a file with one user id a line; - reads them from the standard input, which spark-submit does not "
    "pass on: run the job with python for that",
}


_TARGETS = ("parquet", "jsonl", "redis", "postgres")


def erase_user(context: Context, arguments: argparse.Namespace) -> StageResult:
    """Erase the people whom the arguments name from the warehouse and from the registered models."""
    given = [*(arguments.user or []), *(line for path in arguments.users_file or [] for line in _lines(path))]
    if not given:
        raise ConfigError("no user id to erase; give --user ID, or --users-file with an id a line")
    day = context.night or dt.datetime.now(dt.UTC).date()
    done = erase(context.spark, context.warehouse, context.config.log, given, context.store, day)
    proof = done.proof
    return StageResult(
        inputs={"people": proof["people"]},
        outputs={
            "proof": str(done.version.path / PROOF),
            "unreachable": proof["unreachable"],
            "retrain_by": proof["retrain_by"],
            "report_again": proof["report_again"],
            "export_again": [name for name in _TARGETS if getattr(context.config.export, name)],
        },
        counts={
            "people": len(proof["people"]),
            **{name: table["before"] for name, table in proof["tables"].items()},
            "rows": sum(table["before"] for table in proof["tables"].values()),
            "left": sum(found["after"] for found in (*proof["tables"].values(), *proof["others"].values())),
            **{name: found["before"] for name, found in proof["others"].items()},
            "models_to_train_again": len(proof["trained_before"]),
        },
    )


def _lines(path: str) -> list[str]:
    if path == "-" and "PYSPARK_GATEWAY_PORT" in os.environ:  # else it would wait for ever for what never comes
        raise ConfigError(
            "--users-file -: spark-submit does not pass the standard input on; give a file, or run the job with python"
        )
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; mend --users-file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no UTF-8 text; mend --users-file") from None
    return [line for line in text.splitlines() if line.strip()]
