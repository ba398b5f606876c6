"""Any text through the readers of the log: ids come out as they went in, and no row is lost."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from recsys_spark.config import LogConfig
from recsys_spark.log.judge import REASONS, judge
from recsys_spark.log.raw import find_batches
from recsys_spark.log.read import read_batches
from recsys_spark.log.shape import shape_of

LONGEST = 12
TIMES = {"2026-03-02T10:00:00Z": None, "2026-03-02 10:00:00": None, "": "bad_timestamp", "1772445600": "bad_timestamp"}
# Text without the ends of lines, at which a log is cut, and without halves of characters, which no file can hold.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\x00"), max_size=2 * LONGEST)
rows = st.lists(st.tuples(text, text, st.sampled_from(sorted(TIMES))), min_size=1, max_size=40)
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def judged(spark, path, **options: object) -> Counter:
    config = LogConfig.model_validate({
        "path": str(path), "event_types": {"view": 1}, "default_type": "view", "max_id_length": LONGEST, **options
    })  # fmt: skip
    (batch,) = find_batches(config, None)
    found = judge(read_batches(spark, config, [shape_of(config, batch, batch.files())]), config)
    return Counter(
        (r.user_id, r.item_id, r.reason) for r in found.select("user_id", "item_id", F.col("reason")).collect()
    )


def expected(user: str, item: str, time: str) -> tuple[str | None, str | None, str | None]:
    """What the closed list says of a row that can be read: blanks around an id are none of it."""
    user_id, item_id = user.strip(" ") or None, item.strip(" ") or None
    if user_id is None:
        reason = "missing_user"
    elif item_id is None:
        reason = "missing_item"
    elif max(len(user_id), len(item_id)) > LONGEST:
        reason = "long_id"
    else:
        reason = TIMES[time]
    return user_id, item_id, reason


@few
@given(rows)
def test_json_lines_carry_any_text(spark, tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    lines = [
        json.dumps({"user_id": user, "item_id": item, "timestamp": time}, ensure_ascii=n % 2 == 0)
        for n, (user, item, time) in enumerate(drawn)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    assert judged(spark, path) == Counter(expected(*row) for row in drawn)


@few
@given(rows)
def test_csv_carries_any_text(spark, tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    written = io.StringIO()
    csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
        [("user_id", "item_id", "timestamp"), *drawn]
    )
    path.write_text(written.getvalue(), encoding="utf-8", newline="\n")
    assert judged(spark, path, format="csv") == Counter(expected(*row) for row in drawn)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@few
@given(junk=st.lists(st.binary(max_size=60), min_size=1, max_size=30))
def test_any_bytes_are_rows_with_a_reason_and_none_is_lost(spark, tmp_path_factory, kind, junk):
    path = tmp_path_factory.mktemp("log") / f"log.{kind}"
    lines = [bytes(b for b in row if b not in b"\r\n") for row in junk]
    good = b'{"user_id": "u", "item_id": "i", "timestamp": "2026-03-02T10:00:00Z"}'
    head = [b"user_id,item_id,timestamp"] if kind == "csv" else []
    good = b"u,i,2026-03-02T10:00:00Z" if kind == "csv" else good
    path.write_bytes(b"\n".join([*head, good, *lines, good]) + b"\n")
    found = judged(spark, path, format=kind)
    assert found["u", "i", None] >= 2 and sum(found.values()) == len(lines) + 2
    assert {reason for _, _, reason in found} <= {None, *REASONS}
