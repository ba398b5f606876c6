"""Challengers that must not be published."""

from __future__ import annotations

from soak.faults import fault
from soak.night import Night
from soak.run import Broken


@fault(afterwards=True)
def scores_nan(night: Night) -> str:
    """A challenger that scores NaN.

    Remedy: mend its parameters, the same command again.
    """
    line = night.refused(night.start("models.als.alpha=1.0e+38"), 3, "als", "no number")
    night.run()
    return line


@fault()
def one_item_for_all(night: Night) -> str:
    """A challenger that recommends one item to all.

    Remedy: none; the champion stays.
    """
    run = night.run("models.als={rank: 1, iterations: 5, blocks: 2}", "train.deep=[]")
    said, champion = run.last_line["metrics"]["why"], run.last_line["outputs"]["champion"]
    if champion is None or ("beats" in said and "held back" not in said):
        raise Broken(f"it was promoted: {said}")
    night.run()
    return f"{said}; the champion is {champion['model']} {champion['version'][:10]}"
