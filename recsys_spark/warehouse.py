"""Versioned tables on a shared disk: write aside, check, write a manifest, rename, flip a pointer.

    <root>/<table>[/<key>=<value>]/<version>/…data… + _manifest.json
                                   _current        the pointer: the live version's name

A version is written under a hidden name and renamed when its manifest stands, so a version that can be
seen is whole. Its name ends in a fingerprint of everything it was made from; asking for a version that
stands already returns it, which makes every station idempotent and lets a killed night go on where it
stopped. The pointer is replaced by one atomic rename and nothing that is published is ever changed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_spark.errors import DataError, RunError


class Busy(RunError):
    """Another run holds the lock."""


MANIFEST = "_manifest.json"
POINTER = "_current"
ERASING = ".erasing"
"""Folder whose lock every job shares and an erasure has alone."""


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
        """Return the live version, or None before the first."""
        try:
            return self.version((self.path / POINTER).read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            return None

    def require(self, remedy: str) -> Version:
        """Return the live version, or raise a `DataError` that says which job makes it."""
        version = self.current()
        if version is None:
            raise DataError(f"{self.path}: no such table yet; {remedy}")
        return version

    def version(self, name: str) -> Version | None:
        """Return a finished version by name, or None."""
        try:
            return Version(self.path / name, json.loads((self.path / name / MANIFEST).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def versions(self) -> list[Version]:
        """Return all finished versions, oldest first."""
        if not self.path.is_dir():
            return []
        found = (self.version(p.name) for p in self.path.iterdir() if not p.name.startswith((".", "_")))
        return sorted((v for v in found if v), key=lambda v: (v.manifest["created_at"], v.name))

    def flip(self, version: Version) -> None:
        """Make a finished version the live one, in one atomic step."""
        aside = self.path / f".{POINTER}.{uuid.uuid4().hex}"
        aside.write_text(version.name + "\n", encoding="utf-8")
        os.replace(aside, self.path / POINTER)

    def retire(self) -> None:
        """Let no version be the live one; all of them stay."""
        (self.path / POINTER).unlink(missing_ok=True)

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
            manifest = {**build(aside), "created_at": dt.datetime.now(dt.UTC).isoformat()}
            (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, default=str), encoding="utf-8")
            self._adopt(aside, name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        version = self.version(name)
        assert version is not None
        return version, True

    def _adopt(self, aside: Path, name: str) -> None:
        """Rename a finished folder to its version, unless a run with the other lock was faster: it wrote the same."""
        try:
            os.rename(aside, self.path / name)
        except OSError:
            if self.version(name) is None:
                raise
            shutil.rmtree(aside)

    def expire(self, keep: int) -> list[str]:
        """Delete all but the newest `keep` versions; the live one always stays. Returns their names.

        Not for `erasures`, whose versions are the record of who is not to come back.
        """
        live = self.current()
        gone = [v for v in self.versions()[: -keep or None] if live is None or v.name != live.name]
        for version in gone:
            shutil.rmtree(version.path)
        return [v.name for v in gone]


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder; the lock dies with the process, however that dies."""
    with _locked(folder, fcntl.LOCK_EX, f"{folder}: another run is writing it; wait for that run to end"):
        yield


@contextlib.contextmanager
def shared(folder: Path, busy: str) -> Iterator[None]:
    """Keep out who wants the folder for itself alone, and nobody else; refused with `busy` while somebody has it."""
    with _locked(folder, fcntl.LOCK_SH, busy):
        yield


@contextlib.contextmanager
def _locked(folder: Path, kind: int, busy: str) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                lock = held.enter_context(open(folder / ".lock", "w", encoding="utf-8"))
                try:
                    fcntl.flock(lock, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Busy(busy) from None
                if os.fstat(lock.fileno()).st_nlink:
                    break
            # who had it removed the folder (see `Slot.materialize`) while this run opened the file: begin again
        yield


@dataclass(frozen=True)
class Warehouse:
    """All tables of one data set."""

    root: Path

    def slot(self, table: str, **key: object) -> Slot:
        """Return the slot of a table, or of one partition: `slot("events", batch="2026-01-01")`."""
        return Slot(self.root.absolute() / table / "/".join(f"{k}={v}" for k, v in key.items()))

    def keys(self, table: str, key: str) -> list[str]:
        """Return the values of a table's key that have a live version, sorted."""
        found = (self.root / table).glob(f"{key}=*/{POINTER}")
        return sorted(p.parent.name.removeprefix(f"{key}=") for p in found)


def fingerprint(code: tuple[str, ...], *parts: object) -> str:
    """Hash anything JSON can hold, together with the code that turns it into the output.

    The code is part of it so that a night after an upgrade does not reuse what older code made.

    Args:
        code: files or folders of this package, such as `("log/ingest.py",)`.
        parts: configuration, names of input versions, seeds.

    >>> fingerprint(("log",), "a") == fingerprint(("log",), "a")
    True
    >>> fingerprint(("log",), "a") == fingerprint(("log",), "b")
    False
    """
    text = json.dumps([[_source_hash(c) for c in code], *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def _source_hash(code: str) -> str:
    path = Path(__file__).parent / code
    files = [path] if path.suffix else sorted(path.rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
