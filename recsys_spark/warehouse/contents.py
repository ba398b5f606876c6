"""A version's files as its manifest lists them: sizes, rows, checksums, schemas; and whether they are still so.

An erasure is the one thing that changes a version that stands. Before it puts a file into the place of another it says
so in a small file beside it (`announce`), and in the end brings the manifest in line (`settle`). So a file is at every
moment either as the manifest has it or as was announced, wherever an erasure was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recsys_spark.errors import DataError

MANIFEST = "_manifest.json"
CONTENTS, SCHEMAS = "contents", "schemas"
ANNOUNCED = ".becomes-"
"""The file that announces what FILE becomes is named after it: `.becomes-FILE`."""
_NO_CONTENT = (MANIFEST, "_SUCCESS")
_THREADS = 8  # of which each hashes a file outside of Python's lock


def describe(version: Path) -> dict[str, Any]:
    """Read every file of a version that was just written, and return what its manifest says of them.

    Returns:
        `contents`: by path below the version, `bytes`, `sha256` and, of a Parquet file, `rows`; `schemas`: by table
        below the version, such as `data`, its columns as (name, type).

    Raises:
        ArrowInvalid: a Parquet file that cannot be read.
        AssertionError: two files of `data` have different columns.
    """
    paths = files(version)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(paths, pool.map(lambda path: measure(version / path), paths), strict=True))
    schemas: dict[str, list[list[str]]] = {}
    for path in (p for p in paths if p.endswith(".parquet")):
        table = path.split("/")[0]
        columns = [[field.name, str(field.type)] for field in pq.read_schema(version / path)]
        if schemas.setdefault(table, columns) != columns and table == "data":
            raise AssertionError(f"{version / path}: other columns than in the files beside it")
    return {CONTENTS: found, SCHEMAS: schemas}


def files(version: Path) -> list[str]:
    """Return the paths of a version's files below it, sorted; none of the hidden ones, such as Hadoop's checksums."""
    found = []
    for folder, inner, names in os.walk(version):
        inner[:] = [name for name in inner if not name.startswith(".")]
        kept = (name for name in names if not name.startswith(".") and name not in _NO_CONTENT)
        found += [(Path(folder) / name).relative_to(version).as_posix() for name in kept]
    return sorted(found)


def measure(path: Path) -> dict[str, Any]:
    """Return a file's size, checksum and, of a Parquet file, rows."""
    entry: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": digest_of(path)}
    return entry | {"rows": pq.read_metadata(path).num_rows} if path.suffix == ".parquet" else entry


def faults(version: Path, contents: dict[str, Any], *, checksums: bool = True) -> list[str]:
    """Say what is not as the manifest has it: files that are missing, new, of another size or with other bytes.

    Args:
        contents: of the manifest.
        checksums: read every byte; else the sizes alone are compared.
    """
    there = set(files(version))
    lines = [f"{path}: is missing" for path in sorted(contents.keys() - there)]
    lines += [f"{path}: is in no manifest" for path in sorted(there - contents.keys())]
    both = sorted(there & contents.keys())
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda path: _fault(version / path, contents[path], checksums), both)
    return lines + [f"{path}: {fault}" for path, fault in zip(both, found, strict=True) if fault]


def require_intact(version: Path, remedy: str) -> None:
    """Hold every file of a folder against the manifest in it, if it has one that lists files.

    Raises:
        DataError: one is not as it was written; `remedy` ends the line.
    """
    try:
        contents = json.loads((version / MANIFEST).read_text(encoding="utf-8")).get(CONTENTS)
    except FileNotFoundError:
        return
    found = faults(version, contents) if contents is not None else []
    if found:
        raise DataError(f"{version}/{found[0]}; {remedy}")


def _fault(path: Path, entry: dict[str, Any], checksums: bool) -> str | None:
    announced = _announced(path)
    size = path.stat().st_size
    allowed = [e for e in (entry, announced) if e is not None and e["bytes"] == size]
    if not allowed:
        return f"has {size:,} bytes, not {entry['bytes']:,}"
    if checksums and digest_of(path) not in {e["sha256"] for e in allowed}:
        return "has other bytes than were written"
    return None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def announce(path: Path, aside: Path) -> None:
    """Say, before `aside` is put into the place of a version's file, what that file becomes.

    Does nothing of a file that no manifest lists.
    """
    if path.name == MANIFEST or not any((parent / MANIFEST).exists() for parent in path.parents[:4]):
        return
    entry: dict[str, Any] = {"bytes": aside.stat().st_size, "sha256": digest_of(aside)}
    if path.suffix == ".parquet":
        entry["rows"] = pq.read_metadata(aside).num_rows
    note = path.with_name(ANNOUNCED + path.name)
    part = note.with_name(note.name + ".part")
    part.write_text(json.dumps(entry), encoding="utf-8")
    os.replace(part, note)


def settle(folder: Path) -> int:
    """Bring every manifest below a folder in line with what was announced; returns how many files that were."""
    notes: dict[Path, list[Path]] = {}
    for note in folder.rglob(f"{ANNOUNCED}*"):
        version = next((p for p in note.parents if (p / MANIFEST).exists()), None)
        if note.suffix == ".part" or version is None:
            note.unlink()
        else:
            notes.setdefault(version, []).append(note)
    for version, found in notes.items():
        _settle(version, found)
    return sum(map(len, notes.values()))


def _settle(version: Path, notes: list[Path]) -> None:
    manifest = json.loads((version / MANIFEST).read_text(encoding="utf-8"))
    listed = manifest.get(CONTENTS, {})
    for note in notes:
        path = note.with_name(note.name.removeprefix(ANNOUNCED))
        name, entry = path.relative_to(version).as_posix(), _announced(path)
        # the same bytes, or the file was announced and never replaced
        if entry is not None and name in listed and path.exists() and digest_of(path) == entry["sha256"]:
            listed[name] = entry
    write_manifest(version, manifest)
    for note in notes:
        note.unlink()


def write_manifest(folder: Path, manifest: dict[str, Any], name: str = MANIFEST) -> None:
    """Write a manifest in one step."""
    aside = folder / f".{MANIFEST}.part"
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(json.dumps(manifest, indent=1, default=str))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, folder / name)
    finally:
        aside.unlink(missing_ok=True)


def _announced(path: Path) -> dict[str, Any] | None:
    try:
        entry: dict[str, Any] = json.loads(path.with_name(ANNOUNCED + path.name).read_text(encoding="utf-8"))
        return entry
    except FileNotFoundError:
        return None
