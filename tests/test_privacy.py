"""Pseudonyms, personal columns, redacted rows and the list of the erased, against plain Python; and no key in sight."""

import hashlib
import hmac
import json
import math
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import functions as F

from recsys_spark.config import LogConfig
from recsys_spark.errors import ConfigError
from recsys_spark.log import privacy as module
from recsys_spark.log.privacy import band, current_key_id, key_id, pads, pseudonym, read_key, redact
from recsys_spark.log.suppression import (
    SALT,
    digest_under_key,
    digest_under_salt,
    drop_suppressed,
    known_keys,
    mark_suppressed,
    suppressed,
)
from recsys_spark.warehouse import Warehouse

KEY, OTHER = bytes(range(32)), bytes(range(100, 180))  # the second is longer than a block
COLUMNS = (
    "batch string, raw string, reason string, event_id string, user_id string, item_id string, event_type string, "
    "timestamp timestamp, device string, country string, session_id string, rating float, "
    "attributes map<string,string>"
)


def configured(key=KEY, **privacy):
    """A log's configuration whose key is in the environment; `monkeypatch` would not last through a fixture."""
    module.os.environ["TEST_PSEUDONYM_KEY"] = key.hex()
    privacy = {"pseudonymise": True, "key_variable": "TEST_PSEUDONYM_KEY"} | privacy
    return LogConfig.model_validate({"path": "log", "attributes": ["age", "city", "plan"], "privacy": privacy})


def row(user, **other):
    """A judged row as a tuple in the order of `COLUMNS`."""
    raw = json.dumps({"user_id": user, "secret": "Ada"})
    values = {
        "batch": "all", "raw": raw, "reason": None, "event_id": hashlib.md5(raw.encode()).hexdigest(), "user_id": user,
        "item_id": "i1", "event_type": "view", "timestamp": None, "device": "phone", "country": "DE",
        "session_id": "s1", "rating": None, "attributes": None,
    } | other  # fmt: skip
    return tuple(values.values())


def judged(spark, *rows):
    return spark.createDataFrame(rows, COLUMNS)


IDS = st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=20, unique=True)


@settings(max_examples=3, deadline=None)
@given(ids=IDS, key=st.binary(min_size=32, max_size=150))
def test_pseudonyms_are_those_of_pythons_hmac(spark, ids, key):
    rows = redact(judged(spark, *(row(i) for i in ids), row(None)), configured(key)).collect()
    expected = [hmac.new(key, i.encode(), hashlib.sha256).hexdigest() for i in ids]
    assert [r.user_id for r in rows] == [*expected, None]
    assert [pseudonym(key, i) for i in ids] == expected


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "cannot be read"),
        ("", "no key"),
        ("not a key at all", "no key"),
        ("abc", "no key"),
        ("+1" * 40, "no key"),
        ("1_" * 40, "no key"),
        ("ab" * 31, "31 bytes"),
    ],
)
def test_a_key_that_is_none_names_the_file_and_not_what_is_in_it(tmp_path, content, says):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=says) as error:
        read_key(configured(key_file=str(file)).privacy)
    assert str(file) in str(error.value)
    assert not content or content not in str(error.value)


def test_the_key_comes_from_the_file_else_from_the_variable(tmp_path, monkeypatch):
    config = configured()
    assert read_key(config.privacy) == KEY
    monkeypatch.setenv("TEST_PSEUDONYM_KEY", "zz" * 32)
    with pytest.raises(ConfigError, match="TEST_PSEUDONYM_KEY") as error:
        read_key(config.privacy)
    assert "zz" not in str(error.value)
    monkeypatch.delenv("TEST_PSEUDONYM_KEY")
    with pytest.raises(ConfigError, match="TEST_PSEUDONYM_KEY"):
        read_key(config.privacy)
    (tmp_path / "key").write_text(OTHER.hex().upper() + "\n")
    assert read_key(config.privacy.model_copy(update={"key_file": str(tmp_path / "key")})) == OTHER


def test_another_key_has_another_id_and_the_id_does_not_tell_the_key():
    assert current_key_id(configured().privacy) == hmac.new(KEY, b"key id", hashlib.sha256).hexdigest()[:8]
    assert key_id(KEY) != key_id(OTHER)
    assert current_key_id(LogConfig(path="log").privacy) is None


def secrets_of(key):
    """Every form in which a key, a derived one or their pads could be written down."""
    forms = set()
    for made in (key, module.derived(key, "event_id"), module.derived(key, "session_id")):
        for secret in (made, *map(bytes, pads(made))):
            forms |= {secret, secret.hex().encode(), secret.hex().upper().encode(), str(list(secret)).encode()}
            forms |= {" ".join(f"{b:02X}" for b in secret).encode(), module.hashlib.sha256(secret).hexdigest().encode()}
    return forms


def test_the_key_is_in_no_plan_and_no_event_log(spark, tmp_path, capsys):
    jvm, context = spark._jvm, spark.sparkContext._jsc.sc()
    conf = context.conf().clone().set("spark.eventLog.compress", "false")
    folder = jvm.java.io.File(str(tmp_path)).toURI()
    listener = jvm.org.apache.spark.scheduler.EventLoggingListener(
        "app", jvm.scala.Option.empty(), folder, conf, context.hadoopConfiguration()
    )
    listener.start()
    context.addSparkListener(listener)
    config = configured(personal={"session_id": {"keep": "pseudonym"}})
    try:
        rows = redact(judged(spark, *(row(f"u{i}") for i in range(5))), config)
        assert rows.where(F.col("user_id") == pseudonym(KEY, "u3")).count() == 1
        rows.write.parquet(str(tmp_path / "rows"))
        rows.explain(True)
        seen = capsys.readouterr().out + rows._jdf.queryExecution().toString()
        seen += rows._jdf.queryExecution().optimizedPlan().toJSON()
        context.listenerBus().waitUntilEmpty()
    finally:
        context.removeSparkListener(listener)
        listener.stop()
    logged = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "rows" not in p.parts)
    assert b"_inner_user_id" in logged and "_inner_user_id" in seen, "the plans were looked at"
    for form in secrets_of(KEY):
        assert form not in logged and form not in seen.encode()


def test_nothing_changes_where_nothing_is_asked_for(spark):
    rows = judged(spark, row("u1"))
    assert redact(rows, LogConfig(path="log")) is rows


def test_what_is_written_of_a_row_names_nobody(spark):
    long = "x" * 300
    rows = [
        row("u1", reason="bad_rating"),
        row("u2", reason="malformed", user_id=None),
        row("u3", reason="id_too_long", item_id=long),
        row("u4"),
    ]
    config = configured(personal={"country": {}, "session_id": {"keep": "pseudonym"}})
    frame = judged(spark, *rows)
    out = redact(frame, config)
    assert out.columns == frame.columns
    bad, broken, wide, good = out.collect()
    assert json.loads(bad.raw) == {
        "user_id": pseudonym(KEY, "u1"), "item_id": "i1", "event_type": "view", "device": "phone",
    }  # fmt: skip
    assert broken.raw is None and broken.reason == "malformed"
    assert long not in wide.raw
    under = module.derived(KEY, "event_id")
    assert good.event_id == hmac.new(under, rows[3][3].encode(), hashlib.sha256).hexdigest()[:32]
    assert good.country is None
    assert good.session_id == hmac.new(module.derived(KEY, "session_id"), b"s1", hashlib.sha256).hexdigest()
    text = "".join(str(r) for r in (bad, broken, wide, good))
    for forbidden in ("'u1'", "'u3'", "Ada", "'DE'", "'s1'", rows[0][3]):
        assert forbidden not in text


def test_without_a_key_the_hash_of_the_row_goes_with_the_row(spark):
    config = LogConfig.model_validate({"path": "log", "attributes": ["age"], "privacy": {"personal": {"age": {}}}})
    rows = [row("u1", attributes={"age": "41"}), row("u1", attributes={"age": "42"}), row("u1", event_id="mine")]
    one, two, own = redact(judged(spark, *rows), config).collect()
    assert own.event_id == "mine" and own.user_id == "u1"
    assert one.event_id == two.event_id != rows[0][3], "nothing is left by which the rows differ"
    assert "Ada" not in one.raw and one.attributes == {}


def plain_band(text, width):
    """The band of a text by decimal arithmetic."""
    text = text.strip(" ")
    if not re.fullmatch(r"\+?[0-9]+(\.[0-9]*)?", text, re.ASCII) or float(text) >= 1e15:
        return None
    low = math.floor(Decimal(str(float(text))) / width) * width
    return f"{low}-{low + width - 1}"


def test_bands_are_those_of_decimal_arithmetic(spark):
    texts = ["34", "0", "39.99", "40", " 7 ", "+5", "-1", "-0.5", "NaN", "inf", "Infinity", "", "x", "1e2", "30d"]
    texts += ["0x1f", "12.", ".5", "9" * 40, "999999999999999", "1000000000000000", "3٤", "30\n", "29.999999999", "1 2"]
    texts += [f"{n}.{n % 10}" for n in range(0, 130, 7)]
    frame = spark.createDataFrame([(t,) for t in texts], "t string")
    widths = (1, 5, 10, 7)
    for found in frame.select("t", *(band(F.col("t"), w).alias(str(w)) for w in widths)).collect():
        assert list(found[1:]) == [plain_band(found.t, w) for w in widths], found.t


def test_personal_entries_of_the_attributes(spark):
    config = LogConfig.model_validate(
        {
            "path": "log",
            "attributes": ["age", "city", "plan", "name"],
            "privacy": {
                "personal": {
                    "age": {"keep": "bands"}, "name": {}, "city": {"keep": "lookup", "table": {"Bonn": "DE"}},
                    "device": {"keep": "lookup", "table": {"phone": "small"}},
                }
            },
        }
    )  # fmt: skip
    maps = [
        {"age": "34", "city": "Bonn", "plan": "pro", "name": "Ada"},
        {"age": "old", "city": "Rome", "plan": None},
        {},
        None,
    ]
    out = redact(judged(spark, *(row("u1", attributes=m) for m in maps)), config).collect()
    assert [r.attributes for r in out] == [{"age": "30-39", "city": "DE", "plan": "pro"}, {"plan": None}, {}, None]
    assert {r.device for r in out} == {"small"}
    without = judged(spark, row("u1")).drop("attributes", "event_id", "rating")
    assert redact(without, config).columns == without.columns


@pytest.mark.parametrize(
    "privacy, says",
    [
        ({"personal": {"user_id": {}}}, "user_id"),
        ({"personal": {"shoe": {}}}, "shoe"),
        ({"personal": {"age": {"keep": "lookup"}}}, "table"),
        ({"personal": {"session_id": {"keep": "pseudonym"}}}, "pseudonymise"),
    ],
)
def test_a_configuration_that_cannot_be_kept_is_refused(privacy, says):
    with pytest.raises(ValidationError, match=says):
        LogConfig.model_validate({"path": "log", "attributes": ["age"], "privacy": privacy})


def remember(warehouse, entries, salt="5a17"):
    """Write a list of erased people as `jobs/erase_user.py` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def build(path):
        (path / "data").mkdir()
        columns = {name: [e[i] for e in entries] for i, name in enumerate(("under", "digest"))}
        pq.write_table(pa.table(columns), path / "data" / "part-0.parquet")
        under = [e[0] for e in entries]
        return {"rows": len(entries), "under": {u: under.count(u) for u in set(under)}, SALT: salt}

    warehouse.slot("erasures").materialize("v000001", build)


def test_the_erased_are_known_by_salt_and_by_key(spark, tmp_path):
    warehouse, config = Warehouse(tmp_path), configured()
    assert suppressed(spark, warehouse, config) is None
    rows = judged(
        spark, *(row(u) for u in ("u1", "u2", "u3", "é☃", "u1")), row(None, raw="{}", reason="missing_user"),
        row(None, raw='{"user_id":"u1","item_', reason="malformed"),
        row(None, raw='{"item_id": "u1", "us', reason="malformed"),
        row(None, raw='{"user_id":"u11","item_', reason="malformed"),
        row(None, raw='{"user_id":"u2","item_', reason="malformed"),
        row(None, raw='{"user_id" : "u4" , "item', reason="malformed"),
    )  # fmt: skip
    assert drop_suppressed(rows, None, config) is rows
    gone = [(SALT, digest_under_salt("5a17", u)) for u in ("u1", "u4")] + [(key_id(KEY), digest_under_key(KEY, "é☃"))]
    remember(warehouse, gone)
    listed = suppressed(spark, warehouse, config)
    marked = mark_suppressed(rows, listed, config).collect()
    erased = [(r.user_id, r.raw) for r in marked if r.erased]
    assert sorted(u for u, _ in erased if u) == ["u1", "u1", "é☃"]
    # "u11" contains u1, whom these rows name: as an erasure, rather one broken row too many
    assert sorted(raw for u, raw in erased if u is None) == [
        '{"item_id": "u1", "us', '{"user_id" : "u4" , "item', '{"user_id":"u1","item_', '{"user_id":"u11","item_',
    ]  # fmt: skip
    assert len(marked) == 11
    kept = drop_suppressed(rows, listed, config)
    assert kept.columns == rows.columns and kept.count() == 4


def test_ids_that_a_broken_line_spells_with_escapes_are_known(spark, tmp_path):
    config = configured()
    remember(Warehouse(tmp_path), [(SALT, digest_under_salt("5a17", u)) for u in ("Jürgen", "a/b", "😀")])
    gone = [
        r'{"user_id": "J\u00fcrgen", "it',
        r'{"t": "\u00e9 \"x\" \\", "user_id": "J\u00FCrgen", "t": "\u00',  # cut off within an escape
        r'{"user_id": "Jürgen", "it',
        r'{"user_id":"a\/b","',
        r'{"user_id":"\ud83d\ude00","',
        r'{"item": "\x J\u00fcrgen", "',
        '{"t": "a\tb", "user_id": "J\\u00fcrgen"',
    ]
    kept = [r'{"user_id": "J\\u00fcrgen", "', r'{"user_id": "\u00fcrgen", "', ""]
    rows = judged(spark, *(row(None, raw=line, reason="malformed") for line in (*gone, *kept)))
    listed = suppressed(spark, Warehouse(tmp_path), config)
    assert [r.raw for r in drop_suppressed(rows, listed, config).collect()] == kept


def test_a_batch_is_cleared_by_itself_whatever_it_is_built_with(spark, tmp_path):
    config = configured()
    remember(Warehouse(tmp_path), [(SALT, digest_under_salt("5a17", "u1"))])
    listed = suppressed(spark, Warehouse(tmp_path), config)
    one = [row("u1", batch="1"), row(None, batch="1", raw='{"item_id": "u1", "us', reason="malformed")]
    other = row(None, batch="2", raw='{"item_id": "u1", "us', reason="malformed")  # u1 is an item, as far as it tells
    for rows in ([*one, other], [other]):
        kept = drop_suppressed(judged(spark, *rows), listed, config).collect()
        assert [(r.batch, r.raw) for r in kept] == [("2", other[1])]


def test_in_a_broken_csv_line_any_field_may_be_the_user(spark, tmp_path):
    config = configured().model_copy(update={"format": "csv", "delimiter": "::"})
    remember(Warehouse(tmp_path), [(SALT, digest_under_salt("5a17", "u1"))])
    lines = ['i9::"u1"::x::y', "u1", "u2::u3", "u10::x"]
    rows = judged(spark, *(row(None, raw=line, reason="malformed") for line in lines))
    listed = suppressed(spark, Warehouse(tmp_path), config)
    assert [r.raw for r in drop_suppressed(rows, listed, config).collect()] == ["u2::u3"]


def test_after_a_rotation_the_old_key_is_needed_to_know_the_erased(spark, tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    remember(warehouse, [(key_id(KEY), digest_under_key(KEY, "u1"))])
    with pytest.raises(ConfigError, match=r"1 people.*old_key_files") as error:
        suppressed(spark, warehouse, configured(OTHER))
    assert KEY.hex() not in str(error.value)
    (tmp_path / "old").write_text(KEY.hex())
    config = configured(OTHER, old_key_files=[str(tmp_path / "old")])
    assert list(known_keys(config.privacy)) == [key_id(OTHER), key_id(KEY)]
    rows = drop_suppressed(judged(spark, row("u1"), row("u2")), suppressed(spark, warehouse, config), config)
    assert [r.user_id for r in rows.collect()] == ["u2"]
