"""Bring the counts in manifests in line with what is in the files.

They are counted anew from what the versions hold, and not lowered by what was removed: an erasure that was
killed between the files and the manifest is finished by the next one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from recsys_spark.erasure.rows import FileResult, replacing
from recsys_spark.log.ingest import REASONS
from recsys_spark.warehouse import MANIFEST


def update_manifests(root: Path, results: list[FileResult]) -> int:
    """Write every manifest whose counts are not those of the files; returns how many that were."""
    by_version: dict[Path, list[FileResult]] = defaultdict(list)
    for result in results:
        version = _version_of(Path(result.path), root)
        if version is not None:
            by_version[version].append(result)
    changed = 0
    for version, files in by_version.items():
        table = version.relative_to(root).parts[0]
        manifest = json.loads((version / MANIFEST).read_text(encoding="utf-8"))
        new = json.loads(json.dumps(manifest))
        if table in ("events", "quarantine", "bots"):
            _batch(new, version, root, by_version)
        elif table == "interactions":
            _interactions(new, version, files)
        elif table == "histories":
            _histories(new, version, files)
        elif table.startswith("feed"):
            _feed(new, version, files)
        elif table == "recommendations":
            new |= {"rows": _rows(files), "users": sum(f.groups.get("users", 0) for f in files)}
        elif table == "exposures":
            new["rows"] = _rows(files)
        if new != manifest:
            with replacing(version / MANIFEST) as aside:
                aside.write_text(json.dumps(new, indent=1), encoding="utf-8")
            changed += 1
    return changed


def _version_of(file: Path, root: Path) -> Path | None:
    return next((p for p in file.parents if p != root and root in p.parents and (p / MANIFEST).exists()), None)


def _batch(manifest: dict[str, Any], version: Path, root: Path, by_version: dict[Path, list[FileResult]]) -> None:
    """Rows in = events + duplicates + quarantined + bots + erased: what the first four lose, the last gains."""
    counts = manifest.get("counts")
    if not isinstance(counts, dict):
        return
    batch = version.relative_to(root).parts[1:]
    files = {}
    for table in ("events", "quarantine", "bots"):
        folder = root.joinpath(table, *batch)
        if not (folder / MANIFEST).exists() and table != "bots":
            return  # one of the two has left the warehouse, and its rows are not to be taken for erased ones
        files[table] = by_version.get(folder, [])
    kept = {"events": _rows(files["events"]), "quarantined": _rows(files["quarantine"])}
    kept["duplicates"] = sum(f.groups.get("copies", 0) - f.after for f in (*files["events"], *files["bots"]))
    if "bots" in counts:
        kept["bots"] = _rows(files["bots"])
    gone = sum(counts[name] - kept[name] for name in kept)
    if gone > 0:
        reasons = {r: sum(f.groups.get(f"reason:{r}", 0) for f in files["quarantine"]) for r in REASONS if r in counts}
        counts.update({**kept, **reasons, "erased": counts.get("erased", 0) + gone})


def _rows(files: list[FileResult]) -> int:
    return sum(f.after for f in files)


def _interactions(manifest: dict[str, Any], version: Path, files: list[FileResult]) -> None:
    """Count what is there; `counts`, of the events that were read, stay those of the day it was built."""
    rows = [f for f in files if Path(f.path).parent == version / "data"]
    manifest["rows"] = _rows(rows)
    manifest["parts"] = {p: sum(f.groups.get(f"split:{p}", 0) for f in rows) for p in manifest["parts"]}
    if "core" in manifest:
        manifest["core"] = sum(f.groups.get("core", 0) for f in rows)
    for part, marks in manifest.get("cold", {}).items():
        marks |= {mark: sum(f.groups.get(f"{mark}:{part}", 0) for f in rows) for mark in marks}


def _histories(manifest: dict[str, Any], version: Path, files: list[FileResult]) -> None:
    before = {"valid": "train", "test": "valid"}  # the part that is held out, and what is known before it
    manifest["users_with_held_out"] = {
        part: sum(f.groups.get("held_out", 0) for f in files if f"known={before[part]}" in Path(f.path).parts)
        for part in manifest["users_with_held_out"]
    }


def _feed(manifest: dict[str, Any], version: Path, files: list[FileResult]) -> None:
    """Files without a row are no files of a feed: its readers know them from the manifest alone."""
    rows = {Path(f.path).name: f.after for f in files if Path(f.path).parent == version / "data"}
    if "files" not in manifest:
        return
    manifest["files"] = [{**f, "rows": rows[f["file"]]} for f in manifest["files"] if rows.get(f["file"])]
    manifest["rows"] = sum(rows.values())
    manifest["row_groups"] = sum(f["row_groups"] for f in manifest["files"])
    if isinstance(manifest.get("parts"), dict):
        folders = {part: "data" if part == "train" else part for part in manifest["parts"]}
        manifest["parts"] = {
            part: sum(f.after for f in files if Path(f.path).parent == version / folder)
            for part, folder in folders.items()
        }
