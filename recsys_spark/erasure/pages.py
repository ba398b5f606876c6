"""The pages of nights that name people: they go as a whole, and are made again without them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recsys_spark.erasure.people import People
from recsys_spark.reporting.page import FILE, TABLE
from recsys_spark.reporting.people import people_on
from recsys_spark.warehouse import Slot

LOGGED = f"*/artifacts/{TABLE}/*.html"
"""Where a folder of artifacts has the pages that were logged to runs."""


def erase_from_pages(root: Path, people: People) -> list[str]:
    """Delete the versions of pages that name one of the people; returns the run date of each.

    A page shows a person beside nineteen others and figures of everybody: without them it is another page, which
    `report` makes from the tables as they are then.
    """
    dates = []
    for folder in sorted(root.glob(f"{TABLE}/date=*")):
        slot = Slot(folder)
        for version in slot.versions():
            if _names(version.path / FILE, people):
                slot.remove(version)
                dates.append(folder.name.removeprefix("date="))
    return dates


def erase_logged(folders: Iterable[Path], people: People) -> int:
    """Delete the copies of pages that MLflow keeps; returns how many named one of the people."""
    found = [page for folder in folders for page in folder.glob(LOGGED) if _names(page, people)]
    for page in found:
        page.unlink()
    return len(found)


def _names(page: Path, people: People) -> bool:
    return page.exists() and not people.names.isdisjoint(people_on(page.read_text(encoding="utf-8")))
