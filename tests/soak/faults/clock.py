"""A clock that goes wrong."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
from pathlib import Path

from soak import invariants
from soak.faults import fault
from soak.house import House
from soak.night import Night
from soak.run import Broken

_DAY = 86_400
_SOURCE = Path(__file__).with_name("clock_back.c")


@fault()
def clock_back(night: Night) -> str:
    """The clock set back by a day.

    Remedy: none; nights go by `--date`, and versions by the order in which they were made.
    """
    night.run(LD_PRELOAD=str(_library(night.house)), SET_BACK_SECONDS=str(_DAY))
    slot = night.house.root / f"user_metrics/date={night.day}"
    made = invariants.made(slot / str(invariants.pointer(slot)))
    if dt.datetime.now(dt.UTC) - made < dt.timedelta(seconds=_DAY):
        raise Broken(f"{slot} was made at {made}: the clock was not set back")
    return "the night ended well; its lists are the youngest"


def _library(house: House) -> Path:
    """Compile what sets the clock back."""
    library = house.disk / "clock_back.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
    return library
