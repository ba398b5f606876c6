"""The pointer where a rename is not atomic: at every moment, and wherever a writer dies, readers see old or new."""

from __future__ import annotations

import itertools
import shutil
import threading
from pathlib import Path

import pytest

from recsys_spark.errors import DataError
from recsys_spark.warehouse import Slot, pointer
from recsys_spark.warehouse import slot as module


class Killed(BaseException):
    """The process ends here: nothing that would clean up is run on the disk."""


class CopyingFileSystem:
    """Replaces a file as a mounted object store may: deletes the old, writes the new bit by bit, deletes the source.

    After every step it calls `after`, which may look at what a reader sees, or end the process.
    """

    def __init__(self, after) -> None:
        self.after = after

    def replace(self, source, target) -> None:
        text = Path(source).read_text(encoding="utf-8")
        if Path(target).exists():
            Path(target).unlink()
            self.after()
        for end in range(len(text) + 1):
            Path(target).write_text(text[:end], encoding="utf-8")
            self.after()
        Path(source).unlink()
        self.after()


def on(monkeypatch, after) -> None:
    monkeypatch.setattr(pointer.os, "replace", CopyingFileSystem(after).replace)


def test_a_reader_sees_the_old_or_the_new_version_after_every_step(tmp_path, monkeypatch):
    seen: list[str | None] = []
    on(monkeypatch, lambda: seen.append(pointer.read(tmp_path)))
    pointer.write(tmp_path, "v1")
    assert set(seen) <= {None, "v1"} and pointer.read(tmp_path) == "v1"
    assert seen == sorted(seen, key=lambda name: name is not None), "once it is live it stays so"
    for old, new in (("v1", "v2"), ("v2", "v10"), ("v10", "v1")):  # one a prefix of another
        seen.clear()
        pointer.write(tmp_path, new)
        assert set(seen) == {old, new} and pointer.read(tmp_path) == new
        assert seen == sorted(seen, key=lambda name: name == new), "and never the old one again"


def test_wherever_a_writer_is_killed_the_next_one_goes_on(tmp_path, monkeypatch):
    outcomes = set()
    for fatal in itertools.count(1):
        folder = tmp_path / str(fatal)
        folder.mkdir()
        pointer.write(folder, "old")
        steps = itertools.count(1)

        def after(steps=steps, fatal=fatal):
            if next(steps) == fatal:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(pointer.os, "replace", CopyingFileSystem(after).replace)
            try:
                pointer.write(folder, "new")
            except Killed:
                found = pointer.read(folder)
                assert found in ("old", "new")
                outcomes.add(found)
                seen: list[str | None] = []
                patch.setattr(
                    pointer.os, "replace", CopyingFileSystem(lambda s=seen, f=folder: s.append(pointer.read(f))).replace
                )
                pointer.write(folder, "next")
                assert set(seen) <= {found, "next"}, "what was live stays readable while the next writer mends it"
                assert pointer.read(folder) == "next"
                continue
        break
    assert outcomes == {"old", "new"} and fatal > 10


def test_readers_beside_a_writer_on_threads(tmp_path, monkeypatch):
    on(monkeypatch, lambda: None)
    pointer.write(tmp_path, "v0")
    seen: list[str | None] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(pointer.read(tmp_path))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(200):
        pointer.write(tmp_path, f"v{number % 3}")
    stop.set()
    for reader in readers:
        reader.join()
    assert set(seen) <= {"v0", "v1", "v2"} and len(seen) > 10


def test_two_writers_take_turns(tmp_path, monkeypatch):
    on(monkeypatch, lambda: None)
    writers = [
        threading.Thread(target=lambda n=n: [pointer.write(tmp_path, f"writer-{n}") for _ in range(30)]) for n in "ab"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "_current").read_text() == (tmp_path / "_spare").read_text()
    assert pointer.read(tmp_path) in ("writer-a", "writer-b")


def test_a_half_written_first_pointer_is_none(tmp_path):
    assert pointer.read(tmp_path / "nowhere") is None
    (tmp_path / "_spare").write_text("v00")
    assert pointer.read(tmp_path) is None
    pointer.write(tmp_path, "v1")
    assert pointer.read(tmp_path) == "v1"
    pointer.remove(tmp_path)
    assert pointer.read(tmp_path) is None and not list(tmp_path.glob("_*"))


def test_what_is_retired_does_not_come_back_from_the_spare(tmp_path):
    pointer.write(tmp_path, "v1")
    (tmp_path / "_current").unlink()  # of a writer that was killed
    pointer.remove(tmp_path)
    assert pointer.read(tmp_path) is None


def test_a_folder_that_is_copied_instead_of_renamed_is_a_version_only_when_it_is_whole(tmp_path, monkeypatch):
    slot = Slot(tmp_path / "table")
    seen = []

    def copy(source, target) -> None:
        source, target = Path(source), Path(target)
        # the worst order: what makes it a version comes first
        for path in sorted(source.rglob("*"), key=lambda p: (not p.name.endswith(".json"), p)):
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                shutil.copyfile(path, target / path.relative_to(source))
            seen.append((len(list(target.rglob("*.txt"))), slot.version("v1")))
        shutil.rmtree(source)

    def build(path: Path) -> dict[str, object]:
        (path / "data").mkdir()
        for number in range(3):
            (path / "data" / f"{number}.txt").write_text("rows")
        return {}

    monkeypatch.setattr(module.os, "rename", copy)
    version, made = slot.materialize("v1", build)
    assert made and len(seen) > 3 and all(found is None for _, found in seen), "no manifest before all of the files"
    assert slot.current() == version and len(version.manifest["contents"]) == 3


def test_what_a_killed_run_left_without_a_manifest_is_made_again(tmp_path):
    slot = Slot(tmp_path)
    (tmp_path / "v1" / "data").mkdir(parents=True)
    (tmp_path / "v1" / "data" / "old").write_text("half")
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "_manifest.json").write_text('{"rows": 1, "creat')  # half of one
    assert slot.versions() == []

    def build(path: Path) -> dict[str, object]:
        (path / "rows").write_text("whole")
        return {}

    for name in ("v1", "v2"):
        version, made = slot.materialize(name, build)
        assert made and list(version.manifest["contents"]) == ["rows"] and not (version.path / "data").exists()


def test_a_pointer_to_what_is_gone_says_so(tmp_path):
    slot = Slot(tmp_path / "t")
    version, _ = slot.materialize("v1", lambda path: {})
    shutil.rmtree(version.path)
    with pytest.raises(DataError, match=r"v1 is gone or damaged.*rollback"):
        slot.current()
