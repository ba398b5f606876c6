"""Lists as files: the warehouse's own protocol in another folder, so that a reader follows the pointer there."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

from recsys_spark.export.lists import files_of, lists_of, outdated
from recsys_spark.warehouse import Slot, Version


def to_parquet(version: Version, name: str, folder: Path, keep: int) -> dict[str, Any]:
    """Copy the table's files as they are, under `data/`."""

    def build(path: Path) -> dict[str, Any]:
        (path / "data").mkdir()
        for file in files_of(version):
            shutil.copyfile(file, path / "data" / file.name)
        return _entries(version)

    return _switch(folder, name, build, keep)


def to_jsonl(version: Version, name: str, folder: Path, keep: int) -> dict[str, Any]:
    """Write a line for each user, into a gzipped file for each of the table's, under `data/`."""

    def build(path: Path) -> dict[str, Any]:
        (path / "data").mkdir()
        users = 0
        for number, file in enumerate(files_of(version)):
            # no name and time of day in its head: the same lists are the same bytes
            with (
                open(path / "data" / f"part-{number:05}.jsonl.gz", "wb") as raw,
                gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
            ):
                for found in lists_of(file):
                    packed.write((found.line() + "\n").encode())
                    users += 1
        return {**_entries(version), "users": users}

    return _switch(folder, name, build, keep)


def _entries(version: Version) -> dict[str, Any]:
    return {"table": "exports", "version": version.name, "run_date": version.manifest.get("run_date")}


def _switch(folder: Path, name: str, build: Any, keep: int) -> dict[str, Any]:
    slot = Slot(Path(os.path.abspath(folder)))
    made, new = slot.materialize(name, build)
    gone = slot.expire(keep)
    for old in slot.versions():
        if outdated(old.name, name):
            slot.remove(old)
            gone.append(old.name)
    return {"where": str(made.path), "reused": not new, "deleted": gone}
