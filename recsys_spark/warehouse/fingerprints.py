"""A short name for everything that a version is made from."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


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
    path = _PACKAGE / code
    files = [path] if path.suffix else sorted(path.rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
