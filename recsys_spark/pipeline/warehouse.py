"""The tool of the warehouse: what the job `warehouse` is asked, and what it shows and answers."""

from __future__ import annotations

import argparse
import datetime as dt
import shutil
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table as Grid
from rich.tree import Tree

from recsys_spark.erasure.alone import alone
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.pipeline.job import no_erasure
from recsys_spark.pipeline.rollback import roll_back
from recsys_spark.tracking import registry
from recsys_spark.warehouse import Slot, Version, Warehouse, pointer
from recsys_spark.warehouse.contents import CONTENTS, SCHEMAS, faults
from recsys_spark.warehouse.expiry import expired
from recsys_spark.warehouse.leftovers import leftovers
from recsys_spark.warehouse.lineage import children, graph, reach

VERBS = {
    "list": "the tables, or the versions of one",
    "show": "what a version's manifest says",
    "verify": "read every file and hold it against its manifest; exit code 3 if one is not as it was written",
    "lineage": "what a version was made from, and what was made from it",
    "rollback": "make an older version of a table the live one; nothing is deleted",
    "expire": "delete what the section expiry does not keep, and what killed runs have left behind",
}
OPTIONS = {
    "--table": "a table such as recommendations, or one date or batch of it: interactions/date=2026-01-05",
    "--version": "name of a version; without it the live one, and to roll back the one before the live one",
}
FLAGS = {"--dry-run": "expire: say what would be deleted, and delete nothing"}


def run(context: Context, arguments: argparse.Namespace) -> StageResult:
    """Do what the verb says.

    Raises:
        DataError: no such warehouse, table or version; or, of `verify`, a file that is not as it was written.
    """
    root = context.warehouse.root
    if not any(root.glob("[!.]*")):
        raise DataError(f"{root}: there is no such warehouse; mend root in the configuration")
    verbs: dict[str, Callable[[Context, argparse.Namespace], StageResult]] = {
        "list": _list, "show": _show, "verify": _verify, "lineage": _lineage, "rollback": _rollback,
    }  # fmt: skip
    if arguments.verb == "expire":
        with alone(root.absolute()):  # a job may be reading what nothing that is finished refers to yet
            return _expire(context, arguments)
    with no_erasure(context):
        return verbs[arguments.verb](context, arguments)


def _list(context: Context, arguments: argparse.Namespace) -> StageResult:
    slots = _chosen(context.warehouse, arguments)
    if len(slots) == 1 and arguments.table:
        return _list_versions(context.warehouse, slots[0])
    grid = _grid(context.warehouse.root, "slot", "live version", "created", "versions", "files", "MB")
    counts = {"slots": len(slots), "versions": 0, "bytes": 0}
    for slot in slots:
        name, versions = pointer.read(slot.path), slot.versions()
        live = next((v for v in versions if v.name == name), None)
        size = sum(map(_bytes, versions))
        counts = {**counts, "versions": counts["versions"] + len(versions), "bytes": counts["bytes"] + size}
        shown = (live.name, _when(live), *_sizes(live)) if live else (f"{name} (gone)" if name else "-", "-", "-", "-")
        grid.add_row(context.warehouse.id_of(slot.path), shown[0], shown[1], str(len(versions)), *shown[2:])
    _print(grid)
    live_now = {context.warehouse.id_of(s.path): pointer.read(s.path) for s in slots}
    return StageResult(outputs={"live": live_now}, counts=counts)


def _list_versions(warehouse: Warehouse, slot: Slot) -> StageResult:
    grid = _grid(warehouse.id_of(slot.path), "version", "live", "created", "files", "MB")
    live = pointer.read(slot.path)
    versions = slot.versions()
    for version in versions:
        grid.add_row(version.name, "*" if version.name == live else "", _when(version), *_sizes(version))
    _print(grid)
    counts = {"versions": len(versions), "bytes": sum(map(_bytes, versions))}
    return StageResult(outputs={"live": live, "versions": [v.name for v in versions]}, counts=counts)


def _show(context: Context, arguments: argparse.Namespace) -> StageResult:
    slot, version = _one(context.warehouse, arguments)
    manifest = version.manifest
    grid = _grid(context.warehouse.id_of(version), "entry", "value")
    for name, value in manifest.items():
        if name not in (CONTENTS, SCHEMAS):
            grid.add_row(name, str(value) if len(str(value)) < 2_000 else f"{str(value)[:2_000]} …")
    for table, columns in manifest.get(SCHEMAS, {}).items():
        grid.add_row(f"columns of {table}", ", ".join(f"{name} {kind}" for name, kind in columns))
    _print(grid)
    contents = manifest.get(CONTENTS, {})
    rows = sum(entry.get("rows", 0) for path, entry in contents.items() if path.startswith("data/"))
    return StageResult(
        outputs={"version": context.warehouse.id_of(version), "live": pointer.read(slot.path) == version.name},
        counts={"files": len(contents), "bytes": _bytes(version), "rows": rows},
    )


def _verify(context: Context, arguments: argparse.Namespace) -> StageResult:
    warehouse = context.warehouse
    found: list[str] = []
    counts = {"versions": 0, "files": 0, "bytes": 0, "without_checksums": 0}
    slots = _chosen(warehouse, arguments)
    for slot in slots:
        name = pointer.read(slot.path)
        if name is not None and slot.version(name) is None:
            found.append(f"{warehouse.id_of(slot.path)}: the live version {name} is gone or damaged")
        versions = slot.versions() if not arguments.version else [_version(warehouse, slot, arguments.version[-1])]
        for version in versions:
            counts["versions"] += 1
            contents = version.manifest.get(CONTENTS)
            if contents is None:  # made before manifests had them
                counts["without_checksums"] += 1
                continue
            counts["files"] += len(contents)
            counts["bytes"] += _bytes(version)
            found += [f"{warehouse.id_of(version)}/{fault}" for fault in faults(version.path, contents)]
    for fault in found:
        print(fault, file=sys.stderr)
    if found:
        more = f" and {len(found) - 1} more, listed above" if len(found) > 1 else ""
        raise DataError(f"{found[0]}{more}; run the job that makes it again, or roll back to another version")
    return StageResult(inputs={"slots": len(slots)}, counts=counts)


def _lineage(context: Context, arguments: argparse.Namespace) -> StageResult:
    warehouse = context.warehouse
    _, version = _one(warehouse, arguments)
    start = warehouse.id_of(version)
    made_from = graph(warehouse)
    used_by = children(made_from)
    for title, edges in (("made from", made_from), ("used by", used_by)):
        tree = Tree(f"{start} was {title}" if edges is made_from else f"{start} is {title}")
        _grow(tree, start, edges, made_from, {start})
        _print(tree)
    ancestors, descendants = reach([start], made_from) - {start}, reach([start], used_by) - {start}
    return StageResult(
        inputs={"version": start},
        outputs={"made_from": sorted(ancestors), "used_by": sorted(descendants)},
        counts={"gone": sum(name not in made_from for name in ancestors)},
    )


def _grow(tree: Tree, name: str, edges: dict[str, list[str]], standing: dict[str, Any], seen: set[str]) -> None:
    """Show what a version leads to, each version with its own branches once."""
    for to in edges.get(name, []):
        again = to in seen and bool(edges.get(to))
        branch = tree.add(to + ("" if to in standing else "  (gone)") + ("  (see above)" if again else ""))
        if to not in seen:
            seen.add(to)
            _grow(branch, to, edges, standing, seen)


def _rollback(context: Context, arguments: argparse.Namespace) -> StageResult:
    warehouse = context.warehouse
    if not arguments.table:
        raise ConfigError("rollback needs --table; `list` shows what there is")
    slots = _chosen(warehouse, arguments)
    if len(slots) > 1:
        one = warehouse.id_of(slots[0].path)
        raise ConfigError(f"--table {arguments.table[-1]}: has {len(slots)} dates or batches; name one, such as {one}")
    left, live = roll_back(warehouse, slots[0], arguments.version[-1] if arguments.version else None)
    print(f"live now: {', '.join(live)} (was {left})")
    return StageResult(inputs={"left": left}, outputs={"live": live})


def _expire(context: Context, arguments: argparse.Namespace) -> StageResult:
    warehouse, policy = context.warehouse, context.config.expiry
    named = []
    for alias in (registry.CHAMPION, registry.CHALLENGER, registry.PREVIOUS):
        found = registry.resolve(context.store, alias)
        if found is not None:
            named.append(f"models/{found.model}/date={found.run_date}/{found.version}")
    today = context.night or max(_dates(warehouse), default=dt.date.max)
    gone = expired(warehouse, policy.versions, policy.days, today, named)
    size = 0
    for slot, version in gone:
        size += _bytes(version)
        print(f"{'would delete' if arguments.dry_run else 'deleted'} {warehouse.id_of(version)}", flush=True)
        if not arguments.dry_run:
            slot.remove(version)
    oldest = str(today - dt.timedelta(days=policy.days)) if policy.days is not None else None
    left = leftovers(warehouse.root.absolute(), oldest)
    for folder in left:
        print(f"{'would delete' if arguments.dry_run else 'deleted'} {folder}, of a run that is over", flush=True)
        if not arguments.dry_run:
            shutil.rmtree(folder)
    return StageResult(
        inputs={"today": today, "versions": policy.versions, "days": policy.days, "aliases": len(named)},
        outputs={"deleted": [] if arguments.dry_run else [warehouse.id_of(v) for _, v in gone]},
        counts={"expired": len(gone), "bytes": size, "leftovers": len(left)},
    )


def _dates(warehouse: Warehouse) -> list[dt.date]:
    keys = [slot.path.name for slot in warehouse.slots() if slot.path.name.startswith("date=")]
    return [dt.date.fromisoformat(key.removeprefix("date=")) for key in keys]


def _chosen(warehouse: Warehouse, arguments: argparse.Namespace) -> list[Slot]:
    """Return the slots of the tables that were named, or all."""
    slots = warehouse.slots()
    if not arguments.table:
        return slots
    wanted = [name.strip("/") for name in arguments.table]
    names = {slot: warehouse.id_of(slot.path) for slot in slots}
    for name in wanted:
        if not any(n == name or n.startswith(f"{name}/") for n in names.values()):
            raise DataError(f"{warehouse.root}: has no table {name}; `list` shows what there is")
    return [slot for slot, n in names.items() if any(n == name or n.startswith(f"{name}/") for name in wanted)]


def _one(warehouse: Warehouse, arguments: argparse.Namespace) -> tuple[Slot, Version]:
    """Return the one version that was named; of a table with dates or batches, that of the newest one."""
    if not arguments.table:
        raise ConfigError(f"{arguments.verb} needs --table; `list` shows what there is")
    slots = _chosen(warehouse, arguments)
    if arguments.version:
        holds = [s for s in slots if s.version(arguments.version[-1])]
        slot = holds[-1] if holds else slots[-1]
        return slot, _version(warehouse, slot, arguments.version[-1])
    for slot in reversed(slots):
        version = slot.current()
        if version is not None:
            return slot, version
    raise DataError(f"{arguments.table[-1]}: no version of it is live; give --version")


def _version(warehouse: Warehouse, slot: Slot, name: str) -> Version:
    version = slot.version(name)
    if version is None:
        raise DataError(f"{warehouse.id_of(slot.path)}: has no version {name}; `list --table` shows what there is")
    return version


def _bytes(version: Version) -> int:
    return sum(entry["bytes"] for entry in version.manifest.get(CONTENTS, {}).values())


def _sizes(version: Version) -> tuple[str, str]:
    return str(len(version.manifest.get(CONTENTS, {}))), f"{_bytes(version) / 1e6:,.1f}"


def _when(version: Version) -> str:
    return str(version.manifest["created_at"])[:16].replace("T", " ")


def _grid(title: object, *columns: str) -> Grid:
    grid = Grid(title=str(title), title_justify="left")
    for name in columns:
        grid.add_column(name, justify="right" if name in ("versions", "files", "MB") else "left", overflow="fold")
    return grid


def _print(what: Grid | Tree) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(what)
