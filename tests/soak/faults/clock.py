"""A clock that goes wrong."""

from __future__ import annotations

from pathlib import Path

from soak.faults import fault
from soak.night import Night
from soak.run import Broken


@fault()
def clock_back(night: Night) -> str:
    """The clock set back by a day.

    Remedy: none; nights go by `--date`, and versions by the order in which they were made.
    """
    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
    if library is None:
        raise Broken("needs libfaketime: apt-get install -y faketime")
    back = {"LD_PRELOAD": str(library), "FAKETIME": "-1d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    night.run(**back)
    return "the night ended well; its lists are the youngest"
