"""Who is to be erased: the ids as given, and every form in which the tables may hold them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recsys_spark.config import PrivacyConfig
from recsys_spark.errors import ConfigError
from recsys_spark.log.ingest import KEY
from recsys_spark.log.privacy import key_id, pseudonym, read_key
from recsys_spark.log.suppression import SALT, digest_under_key, digest_under_salt, known_keys
from recsys_spark.schemas import BOTS, EVENTS, QUARANTINE
from recsys_spark.warehouse import MANIFEST

TOMBSTONE = "erased:"
"""What a dictionary holds for a person who was erased begins with this."""


@dataclass(frozen=True)
class People:
    """The people of one erasure. Its text shows their number alone, so that no log or error can tell more."""

    raw: frozenset[str]
    """The ids as the log has them."""
    names: frozenset[str]
    """These and their pseudonyms under every key at hand: tables of older nights may hold any of them."""
    entries: tuple[tuple[str, str], ...]
    """A row of the table `erasures` for each: (under, digest)."""

    @classmethod
    def of(cls, given: Iterable[str], privacy: PrivacyConfig, salt: str) -> People:
        """Read the ids as ingest does: without blanks around them.

        Raises:
            ConfigError: no id, an empty one, or a key that cannot be read.
        """
        raw = frozenset(text.strip(" ") for text in given)
        if not raw or "" in raw:
            raise ConfigError("no user id to erase; give --user ID, or --users-file with an id a line")
        names = raw | {pseudonym(key, user) for key in known_keys(privacy).values() for user in raw}
        if privacy.pseudonymise:
            key = read_key(privacy)
            entries = [(key_id(key), digest_under_key(key, user)) for user in raw]
        else:
            entries = [(SALT, digest_under_salt(salt, user)) for user in raw]
        return cls(raw, names, tuple(sorted(entries)))

    @property
    def references(self) -> list[str]:
        """What may be shown of each: the first 8 hexadecimal digits of the entry's digest."""
        return [digest[:8] for _, digest in self.entries]

    def as_array(self) -> pa.Array:
        return pa.array(sorted(self.names), pa.string())

    def __repr__(self) -> str:
        return f"People({len(self.raw)})"


def out_of_sight(root: Path, privacy: PrivacyConfig) -> list[str]:
    """Say which versions may hold people whom nobody can find, because the key of their pseudonyms is not at hand."""
    tables = [table.name for table in (EVENTS, BOTS, QUARANTINE)]
    manifests = (path for table in tables for path in root.glob(f"{table}/*/[!.]*/{MANIFEST}"))
    keys = Counter(json.loads(path.read_text(encoding="utf-8")).get(KEY) for path in manifests)
    unknown = {*keys} - {None, *known_keys(privacy)}
    return [
        f"{keys[key]} versions of {', '.join(tables)} under the key {key}, and what was made from them; name the key's "
        "file in log.privacy.old_key_files, or delete them"
        for key in sorted(unknown)
    ]
