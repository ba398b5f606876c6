"""The dictionaries: append-only, deterministic, and safe when two runs extend them at once."""

from __future__ import annotations

import threading

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from recsys_spark.dataset import ids
from recsys_spark.dataset.ids import extend_dictionary
from recsys_spark.schemas import USER_IDS
from recsys_spark.warehouse import Busy, Slot, Version, exclusive


def keys(spark, *values: str | None):
    return spark.createDataFrame([(v,) for v in values], "raw string")


def dictionary(version: Version) -> dict[str, int]:
    rows = pq.read_table(version.data).to_pylist()
    assert len({r["raw_id"] for r in rows}) == len({r["key"] for r in rows}) == len(rows)
    assert sorted(r["id"] for r in rows) == list(range(1, len(rows) + 1)), "0 is the unknown, and there are no gaps"
    return {r["raw_id"]: r["id"] for r in sorted(rows, key=lambda r: r["id"])}


def by_hash(spark, *values: str) -> list[str]:
    return [r.raw for r in keys(spark, *values).orderBy(F.xxhash64("raw", F.lit(0))).collect()]


def test_ids_are_append_only_and_in_the_order_of_their_hash(spark, tmp_path):
    slot, twin = Slot(tmp_path / "user_ids"), Slot(tmp_path / "twin")
    first = extend_dictionary(spark, slot, USER_IDS, keys(spark, "b", "a", None, "a", "é", "🎵"))
    assert first.name == "v000001" and list(dictionary(first)) == by_hash(spark, "a", "b", "é", "🎵")
    second = extend_dictionary(spark, slot, USER_IDS, keys(spark, "c", "b", "0", "A"))
    assert list(dictionary(second)) == [*dictionary(first), *by_hash(spark, "c", "0", "A")]
    assert slot.current() == second and second.manifest["appended"] == 3
    assert extend_dictionary(spark, slot, USER_IDS, keys(spark, "A", None)) == second

    extend_dictionary(spark, twin, USER_IDS, keys(spark, "é", "b", "🎵", "b", "a").repartition(3))
    other = extend_dictionary(spark, twin, USER_IDS, keys(spark, "A", "0", "c").repartition(2))
    assert dictionary(other) == dictionary(second)


def test_a_version_whose_pointer_was_not_flipped_is_gone_on_from(spark, tmp_path):
    slot = Slot(tmp_path / "user_ids")
    first = extend_dictionary(spark, slot, USER_IDS, keys(spark, "a", "b"))
    second = extend_dictionary(spark, slot, USER_IDS, keys(spark, "c"))
    slot.flip(first)  # as if the run had died in between; the next brings other keys
    third = extend_dictionary(spark, slot, USER_IDS, keys(spark, "z", "c", "B"))
    assert list(dictionary(third)) == [*dictionary(second), *by_hash(spark, "B", "z")]
    assert third.name == "v000003" and slot.current() == third and third.manifest["previous"] == "v000002"


def test_two_runs_at_once_give_every_id_once(spark, tmp_path):
    """The loser of each version waits, sees what the winner wrote, and numbers the rest behind it."""
    slot, start = Slot(tmp_path / "user_ids"), threading.Barrier(3)
    wanted = [[f"user-{(7 * run + n) % 40}" for n in range(20)] for run in range(3)]
    done: list[Version] = []

    def run(values: list[str]) -> None:
        start.wait()
        done.append(extend_dictionary(spark, slot, USER_IDS, keys(spark, *values)))

    threads = [threading.Thread(target=run, args=(values,)) for values in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 3, "a run that lost the race has to finish all the same"
    live = slot.current()
    assert live is not None and live.name == max(v.name for v in slot.versions())
    everyone = dictionary(live)
    assert set(everyone) == {user for values in wanted for user in values}
    for version in slot.versions():  # what anybody was told stays true
        assert dictionary(version).items() <= everyone.items()


def test_a_lock_that_is_never_given_back_is_one_line(spark, tmp_path):
    slot = Slot(tmp_path / "user_ids")
    with exclusive(slot.path), pytest.raises(Busy, match="another run is writing it"):
        extend_dictionary(spark, slot, USER_IDS, keys(spark, "a"), patience=0.5)
    assert slot.versions() == [] and extend_dictionary(spark, slot, USER_IDS, keys(spark, "a")).name == "v000001"


def test_ids_that_share_a_key_are_kept_apart_by_another_salt(spark, tmp_path, monkeypatch):
    honest = ids.key_of
    monkeypatch.setattr(ids, "key_of", lambda raw, salt: honest(raw, salt) if salt else F.length(raw).cast("long"))
    slot = Slot(tmp_path / "user_ids")
    first = extend_dictionary(spark, slot, USER_IDS, keys(spark, "a", "bb"))
    assert first.manifest["salt"] == 0 and [r["key"] for r in pq.read_table(first.data).to_pylist()] == [1, 2]
    second = extend_dictionary(spark, slot, USER_IDS, keys(spark, "a", "ccc", "ddd"))
    assert second.manifest["salt"] == 1 and dictionary(first).items() <= dictionary(second).items()
    assert set(dictionary(second)) == {"a", "bb", "ccc", "ddd"}
    third = extend_dictionary(spark, slot, USER_IDS, keys(spark, "bb", "e"))
    assert third.manifest["salt"] == 1 and len(dictionary(third)) == 5


def test_a_dictionary_hands_its_lineage_on_and_another_has_its_own(spark, tmp_path):
    slot = Slot(tmp_path / "user_ids")
    first, second = (extend_dictionary(spark, slot, USER_IDS, keys(spark, key)) for key in "ab")
    other = extend_dictionary(spark, Slot(tmp_path / "other"), USER_IDS, keys(spark, "a"))
    assert first.name != second.name and first.manifest["lineage"] == second.manifest["lineage"]
    assert other.name == first.name and other.manifest["lineage"] != first.manifest["lineage"]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nights=st.lists(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=12), min_size=1, max_size=3))
def test_any_text_keeps_its_id_over_any_nights(spark, tmp_path_factory, nights):
    nights = [[t for t in night if t.encode("utf-8", "ignore").decode() == t] for night in nights]
    slot, seen, given_out = Slot(tmp_path_factory.mktemp("ids") / "user_ids"), set(), {}
    for night in nights:
        version = extend_dictionary(spark, slot, USER_IDS, keys(spark, *night, None))
        seen |= set(night)
        assert given_out.items() <= dictionary(version).items() and set(dictionary(version)) == seen
        given_out = dictionary(version)
