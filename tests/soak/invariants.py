"""What has to hold of the tables, read with pyarrow and plain Python alone."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from soak.run import Broken

_TABLES_OF_A_NIGHT = ("interactions", "histories", "feeds/pairs", "user_metrics", "exposures", "serving")
_MAY_REMAIN = 2.0
"""MB that lie in no version: pointers, locks and leases. A checkpoint or a scratch that was left behind is more."""


@dataclass(frozen=True)
class Published:
    """What somebody sees who asks for the lists."""

    version: str
    run_date: str
    digest: str


def pointer(slot: Path) -> str | None:
    """Return the live version's name: the first of the two files that is a whole line."""
    for name in ("_current", "_spare"):
        try:
            line = (slot / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        if line.endswith("\n"):
            return line.strip()
    return None


def read(version: Path) -> pa.Table:
    """Read a version's rows, without what its folders are called."""
    files = sorted((version / "data").rglob("*.parquet"))
    return pa.concat_tables(pq.ParquetFile(file).read() for file in files)


def published(root: Path) -> Published:
    """Read the published lists, whole."""
    slot = root / "recommendations"
    name = pointer(slot)
    if name is None:
        raise Broken("nothing is published")
    rows = read(slot / name)
    digest = hashlib.sha256(repr(sorted(zip(*rows.to_pydict().values(), strict=True))).encode()).hexdigest()
    return Published(name, str(rows["run_date"][0]), digest[:16])


def rows(root: Path) -> list[tuple[str, int, str]]:
    """Read what is published: user, rank and item, in order."""
    slot = root / "recommendations"
    table = read(slot / str(pointer(slot))).to_pydict()
    return sorted(zip(table["user_id"], table["rank"], table["item_id"], strict=True))


def lists(root: Path, day: dt.date) -> str:
    """See that the lists of a day are whole: everybody who ever did something has one, of items that differ."""
    slot = root / "recommendations"
    found = [p for p in slot.glob(f"{day}-*") if (p / "_manifest.json").exists()]
    if not found:
        raise Broken(f"no lists of {day}")
    name = pointer(slot)
    version = slot / name if name and name.startswith(str(day)) else found[0]
    rows = read(version).to_pydict()
    by_user: dict[str, list[tuple[int, str]]] = {}
    for user, rank, item in zip(rows["user_id"], rows["rank"], rows["item_id"], strict=True):
        by_user.setdefault(user, []).append((rank, item))
    for user, ranked in by_user.items():
        if sorted(r for r, _ in ranked) != list(range(1, len(ranked) + 1)):
            raise Broken(f"{version.name}: {user} has the ranks {sorted(r for r, _ in ranked)}")
        if len({item for _, item in ranked}) != len(ranked) or None in {item for _, item in ranked}:
            raise Broken(f"{version.name}: {user} has an item twice, or none")
    expected = {u for batch in batches(root, "events", day) for u in read(batch)["user_id"].to_pylist()}
    if set(by_user) != expected:
        raise Broken(f"{version.name}: {len(set(by_user) ^ expected)} users have a list or an event, and not both")
    first = Counter(item for ranked in by_user.values() for rank, item in ranked if rank == 1).most_common(1)[0]
    return f"{len(by_user)} lists, {first[1] / len(by_user):.0%} begin with the same item"


def batches(root: Path, table: str, until: dt.date) -> Iterator[Path]:
    """Yield the live versions of a table's batches up to a day."""
    for slot in sorted((root / table).glob("batch=*")):
        name = pointer(slot)
        if name is not None and slot.name <= f"batch={until}":
            yield slot / name


def rows_lost(root: Path, log: Path) -> int:
    """Hold every batch against the files that were delivered: no line is lost, and none is counted twice.

    Returns:
        How many lines that were.
    """
    lines = 0
    for slot in sorted((root / "events").glob("batch=*")):
        if pointer(slot) is None:
            continue
        raw = [line for file in sorted((log / slot.name.replace("batch", "date")).glob("*.jsonl"))
               for line in file.read_text(encoding="utf-8").splitlines()]  # fmt: skip
        live = {t: read(root / t / slot.name / pointer(root / t / slot.name)) for t in ("events", "bots", "quarantine")}
        copies = sum(sum(live[t]["copies"].to_pylist()) for t in ("events", "bots"))
        if copies + len(live["quarantine"]) != len(raw):
            raise Broken(
                f"{slot.name}: {len(raw)} lines came in, {copies} + {len(live['quarantine'])} are accounted for"
            )
        kept = [e for t in ("events", "bots") for e in live[t]["event_id"].to_pylist()]
        if len(kept) != len(set(kept)):
            raise Broken(f"{slot.name}: an event is there twice")
        refused = live["quarantine"]["raw"].to_pylist()
        if Counter(raw) - Counter(refused) - Counter({line: len(raw) for line in raw if _id(line) in set(kept)}):
            raise Broken(f"{slot.name}: a line is neither an event nor in the quarantine")
        lines += len(raw)
    return lines


def _id(line: str) -> str | None:
    try:
        return json.loads(line)["event_id"]
    except (ValueError, KeyError):
        return None


def ids(root: Path) -> dict[str, dict[str, int]]:
    """Read the live dictionaries: dense ids from 1, each once."""
    found = {}
    for table in ("user_ids", "item_ids"):
        name = pointer(root / table)
        rows = read(root / table / str(name)).to_pydict()
        found[table] = dict(zip(rows["raw_id"], rows["id"], strict=True))
        if sorted(rows["id"]) != list(range(1, len(rows["id"]) + 1)) or len(found[table]) != len(rows["id"]):
            raise Broken(f"{table}/{name}: the ids are not 1 to {len(rows['id'])}, each once")
    return found


def ids_moved(before: dict[str, dict[str, int]], now: dict[str, dict[str, int]]) -> None:
    """See that everybody has the id that they had."""
    for table, known in before.items():
        moved = [raw for raw, number in known.items() if now[table].get(raw) != number]
        if moved:
            raise Broken(f"{table}: {len(moved)} ids have moved, such as that of {moved[0]}")


def complete(root: Path, day: dt.date) -> None:
    """See that every table of a night is there and live, with the rows that its manifest counts.

    Lists of a day that was late were shown to nobody: their exposures are written, and no pointer leads to them.
    """
    shown = day >= dt.date.fromisoformat(str(pointer(root / "recommendations"))[:10])
    models = [path.relative_to(root).as_posix() for path in sorted((root / "models").iterdir())]
    for table in (*_TABLES_OF_A_NIGHT, *models):
        slot = root / table / f"date={day}"
        name = pointer(slot)
        if table == "exposures" and not shown:
            name = next((p.parent.name for p in slot.glob("*/_manifest.json")), None)
        manifest = slot / str(name) / "_manifest.json"
        if name is None or not manifest.exists():
            raise Broken(f"{table} of {day} is not there")
        for path, entry in json.loads(manifest.read_text(encoding="utf-8"))["contents"].items():
            if "rows" in entry and pq.read_metadata(slot / name / path).num_rows != entry["rows"]:
                raise Broken(f"{slot / name / path}: has not the {entry['rows']} rows of its manifest")


def newest_is_live(root: Path) -> None:
    """See that the lists that went live last are the youngest of all by what the manifests say."""
    slot = root / "recommendations"
    ages = by_age(slot)
    if ages[-1] != pointer(slot):
        raise Broken(f"{pointer(slot)} is live, and not the youngest of {', '.join(ages)}")


def by_age(slot: Path) -> list[str]:
    """Return the versions of a table, the oldest first, as their manifests say."""
    return sorted((p.parent.name for p in slot.glob("*/_manifest.json")), key=lambda name: made(slot / name))


def made(version: Path) -> dt.datetime:
    """When a version was made, by its manifest."""
    manifest = json.loads((version / "_manifest.json").read_text(encoding="utf-8"))
    return dt.datetime.fromisoformat(manifest["created_at"])


def bounded(root: Path, versions: int, days: int, today: dt.date) -> tuple[float, float]:
    """See that nothing lies on the disk that the policy does not keep.

    Of a table without a date: the newest versions, the live one, and what a date that stays was made from. Of dates:
    those of the last `days`, and at most three more, of the models that bear an alias and the lists that are live.

    Returns:
        MB in all, and MB that lie in no version.
    """
    held, inside, total = set(), 0, 0
    for manifest in root.rglob("_manifest.json"):
        if manifest.relative_to(root).parts[0].startswith("."):
            continue
        held.add(manifest.parent)
        inside += sum(f.stat().st_size for f in manifest.parent.rglob("*") if f.is_file())
    total = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
    dates = {p.parent.name for p in held if p.parent.name.startswith("date=")}
    old = sorted(d for d in dates if d < f"date={today - dt.timedelta(days=days)}")
    if len(old) > 3:
        raise Broken(f"{len(old)} dates are older than {days} days: {', '.join(old)}")
    per_slot = Counter(p.parent.relative_to(root).as_posix() for p in held)
    for slot, n in per_slot.items():
        most = versions + 1 + (0 if "=" in slot else len(dates))
        if n > most:
            raise Broken(f"{slot} has {n} versions, {most} may stay")
    left = (total - inside) / 2**20
    if left > _MAY_REMAIN:
        raise Broken(f"{left:.1f} MB lie in no version")
    return total / 2**20, left
