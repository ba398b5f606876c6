"""Lists in PostgreSQL: a table for each version, and a view on the one that is live.

    NAME                 the view that people read: user_id, rank, item_id, score, model, run_date
    NAME_HASH            a version's table, with the key (user_id, rank); its comment is the version's name

Table and view change in one transaction. A reader's query sees one version, and so does all of a transaction that is
`REPEATABLE READ`. Of two exports at a time one is refused, by an advisory lock of the database.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

import pyarrow.parquet as pq

from recsys_spark.errors import RunError
from recsys_spark.export.lists import files_of, outdated
from recsys_spark.warehouse import Version

_COLUMNS = ("user_id", "rank", "item_id", "score", "model", "run_date")
_DEFINITION = (
    "user_id text NOT NULL, rank int NOT NULL, item_id text NOT NULL, score real NOT NULL, model text NOT NULL, "
    "run_date date NOT NULL"
)


def to_postgres(version: Version, name: str, address: str, view: str, keep: int) -> dict[str, Any]:
    """Write the lists of a version into a table of their own and let the view show it.

    Raises:
        RunError: the database does not answer, refuses, or another export is writing there.
    """
    import psycopg

    try:
        with psycopg.connect(address, connect_timeout=5) as connection:
            return _export(connection, version, name, view, keep)
    except psycopg.Error as error:
        cause = str(error).strip().splitlines()[0]
        raise RunError(f"export.postgres {address}: {cause}; start it, or mend the address") from error


def _export(connection: Any, version: Version, name: str, view: str, keep: int) -> dict[str, Any]:
    from psycopg import sql

    table = f"{view}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    with connection.cursor() as cursor:
        if not cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (lock_key(view),)).fetchone()[0]:
            raise RunError(f"export.postgres: another export is writing {view}; wait for it to end")
        standing = table in _tables(cursor, view).values()
        rows = 0
        if not standing:
            cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(table), sql.SQL(_DEFINITION)))
            rows = _copy(cursor, version, table)
            cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (user_id, rank)").format(sql.Identifier(table)))
        # the comment says since when it is live, by which the oldest are found
        cursor.execute(
            sql.SQL("COMMENT ON TABLE {} IS {}").format(
                sql.Identifier(table), sql.Literal(f"{_turn(cursor, view, table)} {name}")
            )
        )
        cursor.execute(
            sql.SQL("CREATE OR REPLACE VIEW {} AS SELECT {} FROM {}").format(
                sql.Identifier(view), sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)), sql.Identifier(table)
            )
        )
        there = _tables(cursor, view)
        gone = [t for called, t in there.items() if t in [*there.values()][:-keep] or outdated(called, name)]
        for old in gone:
            cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(old)))
    return {"where": table, "reused": standing, "rows": rows, "deleted": gone}


def _turn(cursor: Any, view: str, table: str) -> str:
    """Return the time in UTC, later than that of every other version: one that is live must not pass for the oldest."""
    found = _comments(cursor, view)
    others = [dt.datetime.fromisoformat(said.partition(" ")[0]) for other, said in found if other != table]
    now = cursor.execute("SELECT now()").fetchone()[0]
    latest = max([now, *(at + dt.timedelta(microseconds=1) for at in others)])
    return latest.astimezone(dt.UTC).isoformat(timespec="microseconds")


def lock_key(view: str) -> int:
    """Return the number of the advisory lock that an export to a view holds."""
    return int.from_bytes(hashlib.sha256(view.encode()).digest()[:8], "big", signed=True)


def _tables(cursor: Any, view: str) -> dict[str, str]:
    """Return the tables of versions by the versions' names, the one that went live first coming first."""
    return {comment.partition(" ")[2]: table for table, comment in _comments(cursor, view)}


def _comments(cursor: Any, view: str) -> list[tuple[str, str]]:
    """Return the tables of versions with their comments, the oldest comment first."""
    found = cursor.execute(
        "SELECT c.relname, obj_description(c.oid, 'pg_class') "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = current_schema() AND c.relkind = 'r' AND c.relname ~ %s "
        "ORDER BY obj_description(c.oid, 'pg_class') NULLS FIRST",
        (f"^{view}_[0-9a-f]{{12}}$",),
    ).fetchall()
    return [(table, comment) for table, comment in found if comment]


def _copy(cursor: Any, version: Version, table: str) -> int:
    from psycopg import sql

    columns = sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
    rows = 0
    with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), columns)) as copy:
        for file in files_of(version):
            for batch in pq.ParquetFile(file).iter_batches(columns=list(_COLUMNS)):
                for row in zip(*(batch.column(name).to_pylist() for name in _COLUMNS), strict=True):
                    copy.write_row(row)
                rows += batch.num_rows
    return rows
