"""Who was erased, so that a later reading of the same raw log does not bring them back.

The table `erasures` keeps a digest of every erased id, never the id:

- with a pseudonym key, an HMAC under a key derived from it; without the key nobody can try ids out,
- without one, SHA-256 of the warehouse's salt and the id, iterated `ROUNDS` times. Salt and digests lie side by
  side, so who has the warehouse can try ids out, a thousand times slower than with a plain hash; where ids can
  be guessed, use a key.

Each entry says what it is hidden under: a key's id, or `salt`.
"""

from __future__ import annotations

import hashlib
import hmac

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, StringType, StructField, StructType

from recsys_spark.config import LogConfig, PrivacyConfig
from recsys_spark.errors import ConfigError
from recsys_spark.log.privacy import UNPARSED, derived, hmac_column, key_id, pads, read_key, read_key_file
from recsys_spark.warehouse import Version, Warehouse

TABLE = "erasures"
SALT = "salt"
FINISHED = "finished"
"""In the manifest: how many entries the last erasure that came to its end has left."""
ROUNDS = 1_000
ENTRIES = StructType([StructField("under", StringType()), StructField("digest", StringType())])
"""A row per erased id and key: `under` is a key's id or `salt`."""

_SECRETS = StructType(
    [
        StructField("_under", StringType()),
        StructField("_inner", BinaryType()),
        StructField("_outer", BinaryType()),
        StructField("_salt", StringType()),
    ]
)


def known_keys(privacy: PrivacyConfig) -> dict[str, bytes]:
    """Return every key at hand by its id, the one in use first, and those that were rotated out."""
    keys = [read_key(privacy)] if privacy.pseudonymise else []
    keys += [read_key_file(path, "log.privacy.old_key_files") for path in privacy.old_key_files]
    return {key_id(key): key for key in keys}


def digest_under_key(key: bytes, user: str) -> str:
    """Return the digest of an erased id under a pseudonym key."""
    return hmac.new(derived(key, TABLE), user.encode(), hashlib.sha256).hexdigest()


def digest_under_salt(salt: str, user: str) -> str:
    """Return the digest of an erased id under the warehouse's salt."""
    digest = hashlib.sha256(salt.encode() + user.encode()).hexdigest()
    for _ in range(ROUNDS):
        digest = hashlib.sha256(salt.encode() + digest.encode()).hexdigest()
    return digest


def erased_count(warehouse: Warehouse) -> int:
    """Return how many people were erased; 0 where nobody was.

    It belongs into the fingerprint of a model: the tables of an old data set keep their names when people are taken
    out, and a model that learnt from those people would be found again instead of being trained again. An erasure
    that was killed does not count before it is finished, because until then a model may still learn from them.
    """
    version = warehouse.slot(TABLE).current()
    return version.manifest.get(FINISHED, version.manifest["rows"]) if version else 0


def suppressed(spark: SparkSession, warehouse: Warehouse, config: LogConfig) -> DataFrame | None:
    """Return who must not come back, as `mark_suppressed` reads it; None where nobody was erased.

    Raises:
        ConfigError: people were erased under a key that is not at hand, so nobody can recognise them.
    """
    version = warehouse.slot(TABLE).current()
    if version is None or not version.manifest["rows"]:
        return None
    entries = spark.read.schema(ENTRIES).parquet(version.data)
    secrets = spark.createDataFrame(spark.sparkContext.parallelize(_secrets(version, config.privacy), 1), _SECRETS)
    return entries.join(F.broadcast(secrets), F.col("under") == F.col("_under")).drop("_under")


def _secrets(version: Version, privacy: PrivacyConfig) -> list[tuple[str, bytearray | None, bytearray | None, str]]:
    keys = known_keys(privacy)
    secrets: list[tuple[str, bytearray | None, bytearray | None, str]] = []
    for under, people in version.manifest["under"].items():
        if under == SALT:
            secrets.append((under, None, None, version.manifest[SALT]))
        elif under in keys:
            secrets.append((under, *pads(derived(keys[under], TABLE)), ""))
        else:
            raise ConfigError(
                f"{version.path}: {people} people were erased under the key {under}, which is not at hand, and would "
                "come back; name its file in log.privacy.old_key_files"
            )
    return secrets


def mark_suppressed(
    judged: DataFrame, gone: DataFrame | None, config: LogConfig, unparsed: tuple[str, ...] = UNPARSED
) -> DataFrame:
    """Add `erased`, true of the rows of people who were erased; takes raw ids, so it comes before `redact`.

    Of a row that could not be parsed, it is true where a user id stands where the log's user ids stand, and
    where the text contains the id of an erased person whom the batch's rows name otherwise. The rows are read once
    for it, at once.

    Args:
        judged: rows with `batch`, `raw`, `reason` and `user_id`.
        gone: what `suppressed` returned.
    """
    if gone is None:
        return judged.withColumn("erased", F.lit(False))
    broken = F.coalesce(F.col("reason").isin(*unparsed), F.lit(False))
    texts = F.when(broken, _texts(config))
    named = F.concat(F.coalesce(_candidates(config, texts), F.array().cast("array<string>")), F.array("user_id"))
    ids = judged.select("batch", F.explode(named).alias("_id")).where("_id is not null")
    ids = ids.groupBy("_id").agg(F.collect_set("batch").alias("_batches"))
    secrets = gone.select("under", "_inner", "_outer", "_salt").distinct()
    tried = ids.crossJoin(F.broadcast(secrets)).withColumn("digest", _digest("_id"))
    people = tried.join(F.broadcast(gone.select("under", "digest")), ["under", "digest"], "left_semi")
    # once, whatever is written from the rows: trying an id out is slow on purpose
    people = people.select("_id", "_batches").dropDuplicates(["_id"]).localCheckpoint()
    everyone = people.select("_id", F.explode("_batches").alias("batch"))
    everyone = everyone.groupBy("batch").agg(F.collect_list("_id").alias("_everyone"))
    rows = judged.join(F.broadcast(people.drop("_batches")), F.col("user_id") == F.col("_id"), "left")
    rows = rows.join(F.broadcast(everyone), "batch", "left")
    mentions = F.exists(texts, lambda text: F.exists("_everyone", lambda who: F.contains(text, who)))
    erased = F.col("_id").isNotNull() | (broken & F.coalesce(mentions, F.lit(False)))
    return rows.withColumn("erased", erased).select(*judged.columns, "erased")


def drop_suppressed(
    judged: DataFrame, gone: DataFrame | None, config: LogConfig, unparsed: tuple[str, ...] = UNPARSED
) -> DataFrame:
    """Return the rows without those of people who were erased; see `mark_suppressed`."""
    return (
        judged if gone is None else mark_suppressed(judged, gone, config, unparsed).where("not erased").drop("erased")
    )


def _digest(column: str) -> Column:
    salt = F.col("_salt")
    slow = F.aggregate(
        F.sequence(F.lit(1), F.lit(ROUNDS)),
        F.sha2(F.concat(salt, column), 256),
        lambda digest, _: F.sha2(F.concat(salt, digest), 256),
    )
    return F.when(F.col("under") == SALT, slow).otherwise(hmac_column(F.col(column), F.col("_inner"), F.col("_outer")))


def _texts(config: LogConfig) -> Column:
    """Return a broken line as it is, and of JSON also with its escapes resolved, which may be how it spells an id."""
    raw = F.col("raw")
    if config.format == "csv":
        return F.array(raw)
    # made the text of one JSON string: without a last escape that is cut off, and its quotes escaped unless they are
    text = F.regexp_replace(raw, r"(?<!\\)((?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?$", "$1")
    text = F.regexp_replace(text, r'(?<!\\)((?:\\\\)*)"', r'$1\\"')
    options = {"allowUnquotedControlChars": "true", "allowBackslashEscapingAnyCharacter": "true"}
    read = F.from_json(F.concat(F.lit('["'), text, F.lit('"]')), "array<string>", options)
    return F.array_compact(F.array(raw, F.get(read, F.lit(0))))


def _candidates(config: LogConfig, texts: Column) -> Column:
    """Find what may be a user id in a line that could not be parsed."""
    if config.format == "csv":
        fields = F.flatten(F.transform(texts, lambda text: F.split(text, F.lit("\\Q" + config.delimiter + "\\E"))))
        return F.transform(fields, lambda field: F.trim(F.btrim(F.trim(field), F.lit('"'))))
    user = config.columns.get("user_id", "user_id")
    pattern = f'"\\Q{user}\\E"\\s*:\\s*"?\\s*([^",}}]*[^",}}\\s])'
    return F.flatten(F.transform(texts, lambda text: F.regexp_extract_all(text, F.lit(pattern), F.lit(1))))
