"""A place that holds versions of a table: build one, find them, make one live, remove them."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_spark.errors import DataError
from recsys_spark.warehouse import pointer
from recsys_spark.warehouse.contents import MANIFEST, describe, write_manifest
from recsys_spark.warehouse.locks import exclusive, in_turn

_UNFINISHED = f".{MANIFEST}"
"""Name of the manifest while its version is moved to its place."""
_ADOPTING = ".adopting"


@dataclass(frozen=True)
class Version:
    """A finished version: its folder and its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def data(self) -> str:
        """Where Spark wrote the rows."""
        return str(self.path / "data")


@dataclass(frozen=True)
class Slot:
    """A place that holds versions: a table, or one keyed partition of it."""

    path: Path

    def current(self) -> Version | None:
        """Return the live version, or None before the first.

        Raises:
            DataError: the pointer names a version that is not there.
        """
        name = pointer.read(self.path)
        while name is not None:
            version = self.version(name)
            again = pointer.read(self.path)
            if version is not None or again is None:
                return version
            if again == name:
                raise DataError(
                    f"{self.path}: the live version {name} is gone or damaged; make another one live with "
                    "jobs/warehouse.py rollback"
                )
            name = again  # it went live, and the other one away, in between
        return None

    def require(self, remedy: str) -> Version:
        """Return the live version, or raise a `DataError` that says which job makes it."""
        version = self.current()
        if version is None:
            raise DataError(f"{self.path}: no such table yet; {remedy}")
        return version

    def version(self, name: str) -> Version | None:
        """Return a finished version by name, or None; half a manifest is none, and so is a path to elsewhere."""
        if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
            return None
        try:
            return Version(self.path / name, json.loads((self.path / name / MANIFEST).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None

    def versions(self) -> list[Version]:
        """Return all finished versions, oldest first."""
        if not self.path.is_dir():
            return []
        found = (self.version(p.name) for p in self.path.iterdir() if not p.name.startswith((".", "_")))
        return sorted((v for v in found if v), key=lambda v: (v.manifest["created_at"], v.name))

    def flip(self, version: Version) -> None:
        """Make a finished version the live one, in one atomic step."""
        pointer.write(self.path, version.name)

    def retire(self) -> None:
        """Let no version be the live one; all of them stay."""
        pointer.remove(self.path)

    def materialize(
        self, name: str, build: Callable[[Path], dict[str, Any]], *, flip: bool = True, beside: bool = False
    ) -> tuple[Version, bool]:
        """Return version `name`, building it only if it does not stand yet.

        Args:
            name: version name; ends in the fingerprint of its inputs.
            build: writes the version's files into the folder it is given (Spark's rows into `data`),
                checks them, and returns the manifest's entries.
            flip: make it the live version.
            beside: lock this version alone, not the slot, so that several may be written at a time, also while a
                night writes its own; for versions that are not to be live, such as the trials of a search.

        Returns:
            The version, and whether it was built now.
        """
        place = self.path / f".{name}" if beside else self.path
        with exclusive(place):
            try:
                version, made = self._build_once(place, name, build)
            finally:
                if beside:
                    shutil.rmtree(place)
            if flip:
                self.flip(version)
        return version, made

    def _build_once(self, place: Path, name: str, build: Callable[[Path], dict[str, Any]]) -> tuple[Version, bool]:
        standing = self.version(name)
        if standing is not None:
            return standing, False
        for leftover in place.glob(".tmp-*"):  # of a run that was killed: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        aside = place / f".tmp-{uuid.uuid4().hex}"
        aside.mkdir()
        try:
            entries = build(aside)
            manifest = {**entries, **describe(aside), "created_at": self._moment()}
            write_manifest(aside, manifest, _UNFINISHED)
            self._adopt(aside, name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        version = self.version(name)
        assert version is not None
        return version, True

    def _moment(self) -> str:
        """Return the time, later than that of every version: a clock that was set back must not change their order."""
        now = dt.datetime.now(dt.UTC).isoformat()
        last = max((str(v.manifest["created_at"]) for v in self.versions()), default="")
        if last < now:
            return now
        return (dt.datetime.fromisoformat(last) + dt.timedelta(microseconds=1)).isoformat()

    def _adopt(self, aside: Path, name: str) -> None:
        """Rename a finished folder to its version, unless a run with the other lock was faster: it wrote the same.

        The manifest gets its name last: where a folder is not renamed in one step, half a folder has none.
        """
        with in_turn(self.path / _ADOPTING):
            target = self.path / name
            if self.version(name) is not None:
                shutil.rmtree(aside)
                return
            shutil.rmtree(target, ignore_errors=True)  # of a run that was killed before it had a manifest
            os.rename(aside, target)
            os.replace(target / _UNFINISHED, target / MANIFEST)

    def remove(self, version: Version) -> None:
        """Delete a version; nobody sees half of it meanwhile. If it is live, none is."""
        if pointer.read(self.path) == version.name:
            self.retire()
        gone = self.path / f".tmp-{uuid.uuid4().hex}"
        # first what makes it a version, should the folder not be renamed in one step
        os.replace(version.path / MANIFEST, version.path / _UNFINISHED)
        os.rename(version.path, gone)
        shutil.rmtree(gone)

    def expire(self, keep: int) -> list[str]:
        """Delete all but the newest `keep` versions; the live one always stays. Returns their names.

        Looks at this slot alone: `recsys_spark.warehouse.expiry` also keeps what others were made from. Not for
        `erasures`, whose versions are the record of who is not to come back.
        """
        live = self.current()
        gone = [v for v in self.versions()[: -keep or None] if live is None or v.name != live.name]
        for version in gone:
            self.remove(version)
        return [v.name for v in gone]
