"""What is remembered of an erasure: who was erased, as digests, and the proof of what was found and is left."""

from __future__ import annotations

import json
import secrets
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.erasure.people import People
from recsys_spark.erasure.rows import FileResult
from recsys_spark.log.suppression import FINISHED, SALT, TABLE, erased_count
from recsys_spark.warehouse import Version, Warehouse

PROOF, EARLIER = "proof.json", "proofs"


def salt_of(warehouse: Warehouse) -> str:
    """Return the salt of the digests in a warehouse, a new one before the first."""
    current = warehouse.slot(TABLE).current()
    return current.manifest[SALT] if current else secrets.token_hex(16)


def remember(warehouse: Warehouse, people: People, salt: str, proof: dict[str, Any] | None) -> Version:
    """Write the next version of `erasures`: all who were erased so far, and the proof once there is one.

    The proofs of earlier erasures go along, below `proofs`: the live version has all that there is to show.
    """
    slot = warehouse.slot(TABLE)
    current = slot.current()
    before = pq.read_table(current.data).to_pylist() if current else []
    entries = sorted({(e["under"], e["digest"]) for e in before} | set(people.entries))
    if current is not None and proof is None and len(entries) == len(before):
        return current

    def build(path: Path) -> dict[str, Any]:
        (path / "data").mkdir()
        under, digest = zip(*entries, strict=True)
        table = pa.table({"under": pa.array(under, pa.string()), "digest": pa.array(digest, pa.string())})
        pq.write_table(table, path / "data" / "part-00000.parquet", compression="zstd")
        if current is not None:
            _carry_proofs(current.path, path)
        if proof is not None:
            (path / PROOF).write_text(json.dumps(proof, indent=1), encoding="utf-8")
        counted = {u: under.count(u) for u in sorted(set(under))}
        finished = len(entries) if proof is not None else erased_count(warehouse)
        parents = warehouse.parents(current)
        return {"table": TABLE, "rows": len(entries), FINISHED: finished, "under": counted, SALT: salt, **parents}

    number = max((int(v.name[1:]) for v in slot.versions()), default=0) + 1
    return slot.materialize(f"v{number:06d}", build)[0]


def _carry_proofs(old: Path, new: Path) -> None:
    if (old / EARLIER).is_dir():
        shutil.copytree(old / EARLIER, new / EARLIER)
    if (old / PROOF).exists():
        (new / EARLIER).mkdir(exist_ok=True)
        shutil.copy2(old / PROOF, new / EARLIER / f"{old.name}.json")


def by_table(root: Path, found: list[FileResult], left: list[FileResult]) -> dict[str, dict[str, int]]:
    """Count by table: files, files written anew, rows of the people before and after, and all rows."""
    tables: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(("files", "rewritten", "before", "after", "rows"), 0)
    )
    for results, count in ((found, "before"), (left, "after")):
        for result in results:
            table = tables[Path(result.path).relative_to(root).parts[0]]
            table[count] += result.removed
            if count == "before":
                table["rewritten"] += result.removed > 0
            else:
                table["files"] += 1
                table["rows"] += result.after
    return {name: tables[name] for name in sorted(tables)}
