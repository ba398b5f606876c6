"""Keeping secrets out of what is written down."""

from __future__ import annotations

import os
import re
from typing import Any

_NAMED = re.compile(r"(PASS|SECRET|TOKEN|KEY|CREDENTIAL)", re.IGNORECASE)
_IN_URL = re.compile(r"(\w[\w+.-]*://[^\s/:@]*:)[^\s/]+@")
_GIVEN = re.compile(
    r"(\b\w*(?:password|passwd|secret|token)\w*\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&'\"]+)", re.IGNORECASE
)
_SHORTEST = 6  # shorter values of the environment, such as a 1 or a yes, stand in any text
HIDDEN = "***"


def without_secrets(text: str) -> str:
    """Return a text without passwords of URLs, values that follow `password=`, and values of secret variables.

    >>> without_secrets("postgresql://me:pw@db/lists failed, token=abc")
    'postgresql://me:***@db/lists failed, token=***'
    """
    text = _GIVEN.sub(rf"\1{HIDDEN}", _IN_URL.sub(rf"\1{HIDDEN}@", text))
    for name, value in os.environ.items():
        if _NAMED.search(name) and len(value) >= _SHORTEST and value in text and not os.path.exists(value):
            text = text.replace(value, HIDDEN)
    return text


def redacted(value: Any) -> Any:
    """Return a nested value whose texts are all `without_secrets`."""
    if isinstance(value, dict):
        return {key: redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    return without_secrets(value) if isinstance(value, str) else value
