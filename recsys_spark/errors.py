"""Errors that are the user's to mend: each prints as one line and carries the documented exit code.

| exit code | class | what it means |
|---|---|---|
| 2 | `ConfigError` | the command line or the YAML is wrong; nothing was started |
| 3 | `DataError` | the input data is missing, empty or too bad; nothing was published |
| 1 | `RunError` | anything else with a known cause: a port in use, no tracking server, no Java |

Write the message as *cause; remedy*, and name the file, key or column.
"""

from __future__ import annotations


class UserError(Exception):
    """Base of all errors that are shown as one line, without a stack trace."""

    exit_code = 1


class RunError(UserError):
    """The environment is at fault: a service, a port, a missing program."""


class ConfigError(UserError):
    """The configuration or the command line is at fault."""

    exit_code = 2


class DataError(UserError):
    """The input data is at fault."""

    exit_code = 3
