"""The catalogue of faults, a file for each family.

A fault is a function of its `Night`: it brings itself about, sees that what it did to the night is what the runbook
says, applies the remedy that the runbook names, and leaves the night done. It returns what was seen, in a line. The
first line of its docstring says what it is, the second what mends it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from soak.night import Night


@dataclass(frozen=True)
class Fault:
    """One of the catalogue."""

    name: str
    what: str
    remedy: str
    strike: Callable[[Night], str]
    delivers: bool
    """It brings the day's log itself, or keeps it back."""
    afterwards: bool
    """It comes when the night is over, beside another one."""
    nights: int
    """How many further nights it needs to be over."""


CATALOGUE: dict[str, Fault] = {}


def fault(*, delivers: bool = False, afterwards: bool = False, nights: int = 0) -> Callable[..., Callable]:
    """Enter a function into the catalogue."""

    def enter(strike: Callable[[Night], str]) -> Callable[[Night], str]:
        what, remedy = (part.strip() for part in (inspect.getdoc(strike) or "").split("Remedy:"))
        entry = Fault(strike.__name__, what.rstrip("."), remedy.rstrip("."), strike, delivers, afterwards, nights)
        CATALOGUE[entry.name] = entry
        return strike

    return enter


from soak.faults import challengers, clock, deliveries, disks, processes, stores  # noqa: E402, F401

__all__ = ["CATALOGUE", "Fault", "fault"]
