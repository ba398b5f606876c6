"""What leaves the raw log only in another form: pseudonyms of people, and columns that describe them.

    HMAC(key, m) = SHA-256((key ^ opad) || SHA-256((key ^ ipad) || m))          RFC 2104

composed from Spark's own `sha2`. The two pads come as columns of a table of one row that is made from an
RDD and broadcast: a plan shows the names of an RDD's columns and never what is in them, so the key is in no
plan, no event log and no page of Spark's UI.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import os
import stat
import sys
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, StructField, StructType

from recsys_spark.config import LogConfig, PersonalColumn, PrivacyConfig
from recsys_spark.errors import ConfigError

UNPARSED = ("too_long", "bad_encoding", "malformed")
"""Reasons of rows whose columns cannot be told apart, so that nothing of their text can be kept."""

_LEAST_KEY = 32  # bytes: as long as what SHA-256 gives
_BLOCK = 64  # bytes of a block of SHA-256
_USER, _EVENT = "user_id", "event_id"
_FREE_TEXT = ("item_id", "event_type", "device", "country")
_TYPED = ("timestamp", "rating", "position")
_LARGEST = 1e15  # above it a double no longer knows every whole number


def read_key(privacy: PrivacyConfig) -> bytes:
    """Return the pseudonym key.

    Raises:
        ConfigError: there is none, or it is no key; says where it was looked for, never what was found.
    """
    if privacy.key_file is not None:
        return read_key_file(privacy.key_file, "log.privacy.key_file")
    text = os.environ.get(privacy.key_variable)
    if text is None:
        raise ConfigError(
            f"log.privacy.pseudonymise: there is no key in the environment variable {privacy.key_variable}; "
            "set it, or log.privacy.key_file"
        )
    return _key(text, f"the environment variable {privacy.key_variable}")


def read_key_file(path: str, named_by: str) -> bytes:
    """Return the key in a file; raises a `ConfigError` that names the file, and the key that names the file."""
    _warn_of_readers(path)
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; mend {named_by}") from None
    return _key(text, path)


@functools.cache
def _warn_of_readers(path: str) -> None:
    """Say once where every user of the machine can read a key; no refusal, for a container's secrets often are so."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_mode & stat.S_IROTH:
            print(f"warning: {path}: every user of this machine can read the key; run chmod o= {path}", file=sys.stderr)


def _key(text: str, where: str) -> bytes:
    remedy = f"write {_LEAST_KEY} bytes or more in hexadecimal, such as `openssl rand -hex 32` makes"
    digits = text.strip()
    if not digits or len(digits) % 2 or not set(digits) <= set("0123456789abcdefABCDEF"):
        raise ConfigError(f"{where}: holds no key in hexadecimal; {remedy}")
    key = bytes.fromhex(digits)
    if len(key) < _LEAST_KEY:
        raise ConfigError(f"{where}: holds a key of {len(key)} bytes; {remedy}")
    return key


def key_id(key: bytes) -> str:
    """Name a key without telling it: 8 hexadecimal digits, for manifests and fingerprints."""
    return hmac.new(key, b"key id", hashlib.sha256).hexdigest()[:8]


def current_key_id(privacy: PrivacyConfig) -> str | None:
    """Return the id of the configured key, or None where user ids stay as they are.

    It belongs into the fingerprint of every batch: under another key, batches are built anew, and a data set
    never mixes the pseudonyms of two keys.
    """
    return key_id(read_key(privacy)) if privacy.pseudonymise else None


def pseudonym(key: bytes, user: str) -> str:
    """Return what stands for a user in the tables, as `redact` writes it: 64 hexadecimal digits."""
    return hmac.new(key, user.encode(), hashlib.sha256).hexdigest()


def pads(key: bytes) -> tuple[bytearray, bytearray]:
    """Return key ^ ipad and key ^ opad, 64 bytes each."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return bytearray(b ^ 0x36 for b in block), bytearray(b ^ 0x5C for b in block)


def hmac_column(message: Column, inner: Column, outer: Column) -> Column:
    """Return the HMAC in hexadecimal of a text column, given the columns of the pads; null of null."""
    first = F.unhex(F.sha2(F.concat(inner, message.cast("binary")), 256))
    return F.sha2(F.concat(outer, first), 256)


def derived(key: bytes, purpose: str) -> bytes:
    """Return the key for another purpose than user ids: equal texts of two kinds then have nothing in common.

    HKDF-Extract with the purpose as salt (RFC 5869); an HMAC *under* the key would be some user's pseudonym.
    """
    return hmac.new(purpose.encode(), key, hashlib.sha256).digest()


def redact(judged: DataFrame, config: LogConfig, unparsed: tuple[str, ...] = UNPARSED) -> DataFrame:
    """Return the judged rows as they may be written; the columns and their order stay.

    Nothing changes unless `log.privacy` says so. With `pseudonymise`, `user_id` becomes its HMAC and `event_id`
    another one, under a domain of its own: an id that is a hash of the raw row could be guessed, and one of
    the log's own may hold a user's. Columns of `personal` become what is kept of them. As soon as either is
    asked for, `raw` is null for a row that could not be parsed and, for any other, a JSON object of the columns
    that are kept: user (the pseudonym), item, type, time, rating, position, device and country.

    Args:
        judged: rows with `batch`, `raw`, `reason` and typed columns; `attributes`, `event_id` and others may
            be missing.
        unparsed: reasons of rows that could not be parsed.
    """
    privacy = config.privacy
    if not privacy.pseudonymise and not privacy.personal:
        return judged
    rows = judged
    if privacy.pseudonymise:
        rows = rows.crossJoin(F.broadcast(_pad_row(judged.sparkSession, privacy)))
    columns = {name: F.col(name) for name in judged.columns}
    if privacy.pseudonymise:
        columns["user_id"] = _hidden(_USER, columns["user_id"])
    for name, personal in privacy.personal.items():
        if name in columns and name not in config.attributes:
            columns[name] = _kept(name, columns[name], personal)
    if "attributes" in columns:
        columns["attributes"] = _attributes(columns["attributes"], config)
    columns["raw"] = _kept_row(columns, config, F.col("reason").isin(*unparsed))
    if "event_id" in columns:
        columns["event_id"] = _event_id(columns, privacy)
    return rows.select(*(column.alias(name) for name, column in columns.items()))


def as_pseudonyms(rows: DataFrame, privacy: PrivacyConfig) -> DataFrame:
    """Return rows with the column `user_id` as the tables have it, for joining what did not come through the log."""
    if not privacy.pseudonymise:
        return rows
    padded = rows.crossJoin(F.broadcast(_pad_row(rows.sparkSession, privacy)))
    return padded.withColumn("user_id", _hidden(_USER, F.col("user_id"))).select(rows.columns)


def _pad_row(spark: SparkSession, privacy: PrivacyConfig) -> DataFrame:
    """One row with two columns for each purpose, `_inner_<purpose>` and `_outer_<purpose>`."""
    key = read_key(privacy)
    others = [_EVENT, *(name for name, personal in privacy.personal.items() if personal.keep == "pseudonym")]
    keys = {_USER: key} | {purpose: derived(key, purpose) for purpose in others}
    schema = StructType([StructField(f"{side}_{p}", BinaryType()) for p in keys for side in ("_inner", "_outer")])
    row = tuple(pad for k in keys.values() for pad in pads(k))
    return spark.createDataFrame(spark.sparkContext.parallelize([row], 1), schema)


def _hidden(purpose: str, message: Column) -> Column:
    return hmac_column(message, F.col(f"`_inner_{purpose}`"), F.col(f"`_outer_{purpose}`"))


def _event_id(columns: dict[str, Column], privacy: PrivacyConfig) -> Column:
    own = F.col("event_id")
    if privacy.pseudonymise:
        return F.substring(_hidden(_EVENT, own), 1, 32)
    # no key: the hash of a row that is no longer kept whole is made from what is kept of it
    kept = F.to_json(F.struct(*(c.alias(n) for n, c in columns.items() if n not in ("raw", "event_id", "reason"))))
    return F.when(own == F.md5(F.col("raw")), F.md5(kept)).otherwise(own)


def _kept_row(columns: dict[str, Column], config: LogConfig, unparsed: Column) -> Column:
    """What quarantine shows of a row; text as long as no id can be is no id, so it is left out."""
    shown = {"user_id": columns["user_id"]}
    for name in _FREE_TEXT:
        if name in columns:
            shown[name] = F.when(F.length(columns[name]) <= config.max_id_length, columns[name])
    shown |= {name: columns[name] for name in _TYPED if name in columns}
    row = F.to_json(F.struct(*(column.alias(name) for name, column in shown.items())))
    return F.when(~F.coalesce(unparsed, F.lit(False)), row)


def _attributes(attributes: Column, config: LogConfig) -> Column:
    """Change the personal entries of the map; one of which nothing is kept has no entry."""
    personal = {n: p for n, p in config.privacy.personal.items() if n in config.attributes}
    if not personal:
        return attributes

    def value(name: Column, old: Column) -> Column:
        new = old
        for column, kind in personal.items():
            new = F.when(name == column, _kept(column, old, kind)).otherwise(new)
        return new

    kept = F.transform_values(attributes, value)
    return F.map_filter(kept, lambda name, new: ~name.isin(*personal) | new.isNotNull())


def _kept(name: str, value: Column, personal: PersonalColumn) -> Column:
    if personal.keep == "bands":
        return band(value, personal.width)
    if personal.keep == "lookup":
        table = F.create_map(*(F.lit(text) for pair in personal.table.items() for text in pair))
        return F.try_element_at(table, F.trim(value))
    if personal.keep == "pseudonym":
        return _hidden(name, value)
    return F.lit(None).cast("string")


def band(value: Column, width: int) -> Column:
    """Return the band of a number in a text column, such as 30-39 of 34 for a width of 10.

    Null for what is no plain decimal number of 0 or more, and from 10^15 on.
    """
    text = F.trim(value)
    number = F.when(text.rlike(r"\A\+?[0-9]+(\.[0-9]*)?\z"), text.try_cast("double"))
    low = (F.floor(F.when(number < _LARGEST, number) / width) * width).cast("bigint")
    return F.concat(low.cast("string"), F.lit("-"), (low + (width - 1)).cast("string"))
