"""What a manifest says of a version's files, and what is noticed when they are no longer so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.erasure.rows import replacing
from recsys_spark.warehouse import MANIFEST, Slot
from recsys_spark.warehouse.contents import announce, faults, settle


def table(rows: int, name: str = "user_id") -> pa.Table:
    return pa.table({name: pa.array(range(rows), pa.int32())})


@pytest.fixture
def version(tmp_path):
    """A version of two Parquet files in partitions, a text, and what no manifest lists."""

    def build(path: Path) -> dict[str, object]:
        for number, part in enumerate(("train", "test")):
            folder = path / "data" / f"known={part}"
            folder.mkdir(parents=True)
            pq.write_table(table(number + 3), folder / "part-0.parquet")
            (folder / ".part-0.parquet.crc").write_bytes(b"hadoop's")
        (path / "data" / "_SUCCESS").touch()
        (path / "notes.txt").write_text("ü")
        return {"rows": 7}

    return Slot(tmp_path / "t").materialize("v1", build)[0]


def found(version) -> list[str]:
    return faults(version.path, json.loads((version.path / MANIFEST).read_text())["contents"])


def test_the_manifest_lists_files_rows_checksums_and_columns(version):
    contents = version.manifest["contents"]
    assert list(contents) == ["data/known=test/part-0.parquet", "data/known=train/part-0.parquet", "notes.txt"]
    for name, entry in contents.items():
        content = (version.path / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert [entry.get("rows") for entry in contents.values()] == [4, 3, None]
    assert version.manifest["schemas"] == {"data": [["user_id", "int32"]]}
    assert found(version) == []


def test_every_kind_of_damage_is_named(version):
    one, other, notes = (version.path / name for name in version.manifest["contents"])
    content = bytearray(one.read_bytes())
    content[len(content) // 2] ^= 1  # one bit, and the same size
    one.write_bytes(content)
    other.unlink()
    notes.write_text("longer than it was")
    (version.path / "data" / "part-9.parquet").write_bytes(b"from elsewhere")
    assert found(version) == [
        "data/known=train/part-0.parquet: is missing",
        "data/part-9.parquet: is in no manifest",
        "data/known=test/part-0.parquet: has other bytes than were written",
        "notes.txt: has 18 bytes, not 2",
    ]
    assert len(faults(version.path, version.manifest["contents"], checksums=False)) == 3


def test_files_of_other_columns_are_no_table(tmp_path):
    def build(path: Path) -> dict[str, object]:
        (path / "data").mkdir()
        pq.write_table(table(1), path / "data" / "a.parquet")
        pq.write_table(table(1, "item_id"), path / "data" / "b.parquet")
        return {}

    with pytest.raises(AssertionError, match="other columns"):
        Slot(tmp_path).materialize("v1", build)
    assert Slot(tmp_path).versions() == []


def test_a_file_that_is_no_parquet_is_not_published(tmp_path):
    def build(path: Path) -> dict[str, object]:
        (path / "data.parquet").write_bytes(b"PAR1 cut off")
        return {}

    with pytest.raises(pa.ArrowInvalid):
        Slot(tmp_path).materialize("v1", build)
    assert Slot(tmp_path).current() is None


def test_what_an_erasure_replaces_is_right_at_every_moment(version):
    path = version.path / "data/known=test/part-0.parquet"
    with replacing(path) as aside:
        pq.write_table(table(1), aside)
        assert found(version) == []
    assert found(version) == [], "announced, and replaced"
    assert settle(version.path.parent) == 1 and settle(version.path.parent) == 0
    assert found(version) == []
    entry = json.loads((version.path / MANIFEST).read_text())["contents"]["data/known=test/part-0.parquet"]
    assert entry["rows"] == 1 and not list(version.path.rglob(".becomes-*"))


def test_an_erasure_that_was_killed_before_it_replaced_a_file_changes_no_checksum(version, tmp_path):
    before = (version.path / MANIFEST).read_text()
    aside = tmp_path / "aside.parquet"
    pq.write_table(table(1), aside)
    announce(version.path / "data/known=test/part-0.parquet", aside)
    assert found(version) == []
    assert settle(version.path) == 1
    assert json.loads((version.path / MANIFEST).read_text()) == json.loads(before)


def test_a_damaged_file_is_not_taken_for_an_announced_one(version, tmp_path):
    path = version.path / "data/known=test/part-0.parquet"
    aside = tmp_path / "aside.parquet"
    pq.write_table(table(1), aside)
    announce(path, aside)
    path.write_bytes(b"something else")
    settle(version.path)
    assert len(found(version)) == 1


def test_files_of_no_version_are_not_announced(tmp_path):
    (tmp_path / "file.txt").write_text("old")
    with replacing(tmp_path / "file.txt") as aside:
        aside.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
