"""Handing the published lists over: what the job `export` does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys_spark.errors import DataError
from recsys_spark.export.files import to_jsonl, to_parquet
from recsys_spark.export.lists import export_name
from recsys_spark.export.postgres import to_postgres
from recsys_spark.export.redis import to_redis
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.schemas import RECOMMENDATIONS

OPTIONS = {"--version": "name of a published version, to switch the targets back to; without it the live one"}


def export(context: Context, arguments: argparse.Namespace) -> StageResult:
    """Bring every target of `export` to the published lists, one after the other.

    Raises:
        DataError: nothing is published, or no such version.
        RunError: a target cannot be reached; those before it have switched, the others have not.
    """
    config = context.config.export
    slot = context.warehouse.slot(RECOMMENDATIONS.name)
    version = slot.require("run jobs/recommend.py first")
    if arguments.version:
        chosen = slot.version(arguments.version[-1])
        if chosen is None:
            raise DataError(f"recommendations: has no version {arguments.version[-1]}; see jobs/warehouse.py list")
        version = chosen
    name, keep = export_name(context.warehouse, version), config.keep
    prefix = f"{config.name}:{context.config.name}"
    targets: dict[str, tuple[str | None, Callable[[str], dict[str, Any]]]] = {
        "parquet": (config.parquet, lambda to: to_parquet(version, name, Path(to), keep)),
        "jsonl": (config.jsonl, lambda to: to_jsonl(version, name, Path(to), keep)),
        "redis": (config.redis, lambda to: to_redis(version, name, to, prefix, keep)),
        "postgres": (config.postgres, lambda to: to_postgres(version, name, to, config.name, keep)),
    }
    outputs = {}
    for target, (place, hand_over) in targets.items():
        if place is not None:
            outputs[target] = hand_over(place)
            print(f"{target}: {outputs[target]['where']}", file=sys.stderr)
    if not outputs:
        print("export: no target is configured; nothing to do", file=sys.stderr)
    return StageResult(
        inputs={"recommendations": version.name},
        outputs=outputs,
        counts={"targets": len(outputs), "written": sum(not done["reused"] for done in outputs.values())},
    )
