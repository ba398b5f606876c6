"""Versioned tables: whole or not there, whatever happens to the process that writes them."""

from __future__ import annotations

import builtins
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recsys_spark.errors import DataError, RunError
from recsys_spark.warehouse import MANIFEST, Busy, Slot, Warehouse, exclusive, fingerprint, fingerprints, locks, pointer

WRITER = """
import sys, time
from pathlib import Path
from recsys_spark.warehouse import Slot

slot, name, ready, release = Slot(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])

def build(path):
    (path / "data").mkdir()
    (path / "data" / "part-0").write_text("half")
    ready.touch()
    while not release.exists():
        time.sleep(0.01)
    return {"rows": 1}

print(slot.materialize(name, build)[1])
"""


@pytest.fixture
def slot(tmp_path) -> Slot:
    return Slot(tmp_path / "table")


def building(text: str = "rows"):
    """A build function that writes one file."""

    def build(path: Path) -> dict[str, object]:
        (path / "data").write_text(text)
        return {"rows": len(text)}

    return build


def visible(slot: Slot) -> set[str]:
    """What anyone sees in the slot: no hidden files, no lock, no pointer."""
    return {p.name for p in slot.path.iterdir() if not p.name.startswith((".", "_"))}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


@pytest.fixture
def writer(slot, tmp_path):
    """Start a process that is in the middle of building a version, and return it with its release file."""
    started = []

    def start(name: str) -> tuple[subprocess.Popen, Path]:
        ready, release = tmp_path / "ready", tmp_path / "release"
        command = [sys.executable, "-c", WRITER, str(slot.path), name, str(ready), str(release)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        wait_for(ready)
        return process, release

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_version_is_built_once_and_read_by_the_pointer(slot):
    assert slot.current() is None and slot.versions() == []
    first, built = slot.materialize("v1", building("one"))
    assert built and slot.current() == first and first.name == "v1"
    assert Path(first.data).read_text() == "one"
    assert first.manifest["rows"] == 3 and "created_at" in json.loads((first.path / MANIFEST).read_text())

    def never(path: Path) -> dict[str, object]:
        raise AssertionError("a version that stands is not built again")

    again, built = slot.materialize("v1", never)
    assert not built and again == first
    second, _ = slot.materialize("v2", building("two"), flip=False)
    assert slot.current() == first and slot.versions() == [first, second]
    assert slot.materialize("v2", never) == (second, False)  # now it is the live one
    assert slot.current() == second
    assert slot.materialize("v1", never) == (first, False)  # and back
    assert slot.current() == first


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, DataError])
def test_an_exception_leaves_what_was_there(slot, error):
    slot.materialize("v1", building())
    before = {p: p.stat().st_mtime_ns for p in slot.path.rglob("*")}

    def fail(path: Path) -> dict[str, object]:
        (path / "data").write_text("half")
        raise error("no")

    with pytest.raises(error):
        slot.materialize("v2", fail)
    assert {p: p.stat().st_mtime_ns for p in slot.path.rglob("*") if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }
    assert slot.current().name == "v1"
    assert slot.materialize("v2", building())[1]  # the lock is free again


def test_a_manifest_that_cannot_be_written_leaves_no_version(slot):
    def circular(path: Path) -> dict[str, object]:
        manifest: dict[str, object] = {}
        manifest["self"] = manifest
        return manifest

    with pytest.raises(ValueError, match="Circular"):
        slot.materialize("v1", circular)
    assert visible(slot) == set() and slot.current() is None


def test_versions_that_are_not_to_be_live_are_written_side_by_side(slot, writer):
    slot.materialize("v1", building("one"))
    _, release = writer("v2")  # holds the slot's lock

    def nested(path: Path) -> dict[str, object]:
        assert slot.materialize("v4", building("four"), flip=False, beside=True)[1]
        with pytest.raises(Busy, match="another run is writing it"):
            slot.materialize("v3", building(), flip=False, beside=True)
        return building("three")(path)

    version, built = slot.materialize("v3", nested, flip=False, beside=True)
    assert built and Path(version.data).read_text() == "three" and slot.current().name == "v1"
    assert not [p for p in slot.path.iterdir() if p.name.startswith((".v", ".2"))], "their locks go with them"
    release.touch()


def test_a_version_that_another_run_made_meanwhile_is_taken(slot):
    def overtaken(path: Path) -> dict[str, object]:
        slot.materialize("v1", building("one"))
        return building("one")(path)

    version, _ = slot.materialize("v1", overtaken, flip=False, beside=True)
    assert Path(version.data).read_text() == "one" and visible(slot) == {"v1"}


def test_a_killed_process_leaves_what_was_published_and_a_second_run_finishes(slot, writer):
    slot.materialize("v1", building("one"))
    process, _ = writer("v2")
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert list(slot.path.glob(".tmp-*")), "the process was to die in the middle of its work"
    assert slot.current().name == "v1" and visible(slot) == {"v1"} and [v.name for v in slot.versions()] == ["v1"]

    version, built = slot.materialize("v2", building("two"))
    assert built and Path(version.data).read_text() == "two" and slot.current() == version
    assert list(slot.path.glob(".tmp-*")) == []


def test_of_two_processes_one_writes_and_the_other_is_told(slot, writer):
    process, release = writer("v1")
    with pytest.raises(RunError) as error:
        slot.materialize("v1", building())
    message = str(error.value)
    assert str(slot.path) in message and "another run" in message and "\n" not in message
    assert visible(slot) == set()
    release.touch()
    assert process.communicate(timeout=30)[0].strip() == "True"
    version, built = slot.materialize("v1", building())
    assert not built and (version.path / "data" / "part-0").read_text() == "half"


def test_readers_always_see_a_whole_version_while_the_pointer_flips(slot):
    versions = [slot.materialize(f"v{i}", building())[0] for i in range(2)]
    seen: list[object] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(slot.current())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(500):
        slot.flip(versions[i % 2])
    stop.set()
    reader.join()
    assert {getattr(v, "name", None) for v in seen} <= {"v0", "v1"} and seen
    assert not list(slot.path.glob("._current*")), "nothing is left of the flips"


def test_a_flip_that_does_not_come_through_keeps_the_old_pointer(slot, monkeypatch):
    slot.materialize("v1", building())
    second, _ = slot.materialize("v2", building(), flip=False)

    def full(source: object, target: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(pointer.os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            slot.flip(second)
    assert slot.current().name == "v1"
    assert [v.name for v in slot.versions()] == ["v1", "v2"]


def test_expire_keeps_the_newest_and_the_live_one(slot):
    for i in range(1, 6):
        slot.materialize(f"v{i}", building())
    slot.flip(slot.version("v1"))  # rolled back
    assert slot.expire(keep=2) == ["v2", "v3"]
    assert visible(slot) == {"v1", "v4", "v5"} and slot.current().name == "v1"
    assert slot.expire(keep=10) == []
    slot.flip(slot.version("v5"))
    assert slot.expire(keep=0) == ["v1", "v4"] and visible(slot) == {"v5"}


def test_a_missing_table_says_which_job_makes_it(slot):
    with pytest.raises(DataError) as error:
        slot.require("run jobs/x.py")
    assert str(slot.path) in str(error.value) and "run jobs/x.py" in str(error.value)
    version, _ = slot.materialize("v1", building())
    assert slot.require("run jobs/x.py") == version


def test_keys_are_those_with_a_live_version(tmp_path):
    warehouse = Warehouse(tmp_path)
    assert warehouse.keys("events", "batch") == []
    for day in ("2026-01-02", "2026-01-01", "all"):
        warehouse.slot("events", batch=day).materialize("v1", building())
    warehouse.slot("events", batch="2026-01-03").materialize("v1", building(), flip=False)
    warehouse.slot("items").materialize("v1", building())
    assert warehouse.keys("events", "batch") == ["2026-01-01", "2026-01-02", "all"]
    assert warehouse.keys("events", "date") == []
    assert warehouse.slot("events", batch="all").path == tmp_path / "events" / "batch=all"
    assert warehouse.slot("items").path == tmp_path / "items"


def test_the_fingerprint_changes_with_inputs_and_with_code(tmp_path):
    code = tmp_path / "station"
    code.mkdir()
    (code / "a.py").write_text("x = 1")

    def of(*parts: object) -> str:
        fingerprints._source_hash.cache_clear()
        return fingerprint((str(code),), *parts)

    first = of({"k": 1, "j": 2}, ["v1"])
    assert first == of({"j": 2, "k": 1}, ["v1"]) and len(first) == 12
    assert len({first, of({"k": 2, "j": 2}, ["v1"]), of({"k": 1, "j": 2}, ["v2"]), of({"k": 1, "j": 2})}) == 4
    (code / "notes.txt").write_text("no code")
    assert first == of({"k": 1, "j": 2}, ["v1"])
    (code / "a.py").write_text("x = 2")
    changed = of({"k": 1, "j": 2}, ["v1"])
    (code / "b.py").write_text("")
    (code / "b.py").write_text("y = 1")
    assert len({first, changed, of({"k": 1, "j": 2}, ["v1"])}) == 3
    assert fingerprint(("log",), 1) != fingerprint(("dataset",), 1) != fingerprint(("dataset/ids.py",), 1)


def test_a_lock_whose_folder_goes_while_it_is_opened_is_taken_anew(tmp_path, monkeypatch):
    folder, opened = tmp_path / "version", []

    def open_late(path, *args, **kwargs):
        file = builtins.open(path, *args, **kwargs)  # noqa: SIM115 - the caller closes it
        if not opened:
            shutil.rmtree(folder)  # as who had the lock until now does
        opened.append(path)
        return file

    monkeypatch.setattr(locks, "open", open_late, raising=False)
    with exclusive(folder):
        assert len(opened) == 2 and (folder / ".lock").exists()
        with pytest.raises(Busy), exclusive(folder):
            pass
