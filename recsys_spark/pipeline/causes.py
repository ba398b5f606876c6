"""What the errors of others mean whose cause is known: one line with a remedy, in the place of a stack trace."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from recsys_spark.config import Config
from recsys_spark.errors import DataError, RunError, UserError
from recsys_spark.tracking.store import has_gone

_FULL = re.compile(r"No space left on device|disk is full|Disk quota exceeded", re.IGNORECASE)
_FAILS = re.compile(r"too many 5\d\d error responses")
_READING = re.compile(r"FAILED_READ_FILE.*?reading file:? ?(?:file:)?/*(/\S+?)\.?\s", re.DOTALL)
_NO_PARQUET = re.compile(r"Parquet (magic bytes|file size is|footer)|Couldn't deserialize thrift|decompression failed")


def known_cause(error: BaseException, config: Config) -> UserError | None:
    """Return what to say of an error of Spark, MLflow or the system, or None where its cause is not known.

    Args:
        error: an error, which may have come of others; any of them may be the cause.
    """
    errors = list(_chain(error))
    for each in errors:
        text = str(each)
        if _FULL.search(text) or (isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT)):
            return RunError(
                f"{config.root}: its disk, Spark's scratch or the MLflow store is full ({_short(each, _FULL)}); "
                "make room, such as with jobs/warehouse.py expire, and run the same command again"
            )
    for each in errors:
        damaged = _damaged(each)
        if damaged is not None:
            return DataError(
                f"{damaged}: is damaged or cut off; jobs/warehouse.py verify names all such files: move the version's "
                "folder away and run the job that makes it, or roll back"
            )
    if any(has_gone(each) for each in errors):
        if any(_FAILS.search(str(each)) for each in errors):
            return RunError(
                f"{config.tracking.uri}: the tracking server fails whatever it is asked ({_short(errors[-1])}); "
                "its log says why, a full disk for example: mend that, and run the same command again"
            )
        return RunError(
            f"{config.tracking.uri}: the tracking server does not answer any more ({_short(errors[-1])}); start it, "
            "and run the same command again"
        )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it came of, what that came of, and so on."""
    seen: set[int] = set()
    follow: BaseException | None = error
    while follow is not None and id(follow) not in seen:
        seen.add(id(follow))
        yield follow
        follow = follow.__cause__ or follow.__context__


def _damaged(error: BaseException) -> str | None:
    """Name the Parquet file that could not be read, as far as the error does."""
    text = str(error)
    read = _READING.search(text)
    if read is not None:
        return read[1]
    return "a Parquet file" if _NO_PARQUET.search(text) else None


def _short(error: BaseException, of: re.Pattern[str] | None = None) -> str:
    """Return the line of an error that says what, cut to what fits into a line with others."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    found = next((line for line in lines if of is not None and of.search(line)), lines[0])
    return found if len(found) <= 160 else f"{found[:160]}…"
