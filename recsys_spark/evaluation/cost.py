"""What a model costs where it is measured: how long it takes to score a user, and how large it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyspark import Accumulator, AccumulatorParam, SparkContext

Block = tuple[int, float]
"""Users of a block, and the seconds that scoring them and choosing their lists took."""


@dataclass(frozen=True)
class Cost:
    """What a model costs."""

    score_ms: float
    """Milliseconds to score a user and choose their list, see `milliseconds`; NaN where nobody was measured."""
    bytes: int
    """Size of the saved model's files."""

    def to_json(self) -> dict[str, Any]:
        """Return it for a manifest; NaN becomes None."""
        return asdict(self) | {"score_ms": None if math.isnan(self.score_ms) else self.score_ms}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Cost:
        """Undo `to_json`."""
        return cls(math.nan if values["score_ms"] is None else values["score_ms"], values["bytes"])


class _Gathered(AccumulatorParam[list[Block]]):
    def zero(self, value: list[Block]) -> list[Block]:
        return []

    def addInPlace(self, value1: list[Block], value2: list[Block]) -> list[Block]:
        value1 += value2
        return value1


def block_times(context: SparkContext) -> Accumulator[list[Block]]:
    """Return what tasks tell the times of their blocks to; one that is run again tells them again."""
    return context.accumulator([], _Gathered())


def milliseconds(blocks: Sequence[Block]) -> float:
    """Return the median over users of their block's milliseconds per user; NaN without a block.

    The median, because a process' first block also pays for what is compiled and read then, and because blocks that
    were told twice do not move it.

    >>> milliseconds([(100, 0.5), (100, 0.1), (100, 0.1), (10, 9.0)])
    1.0
    """
    by_pace = sorted((seconds / users * 1000, users) for users, seconds in blocks if users)
    passed, half = 0, sum(users for _, users in by_pace) / 2
    for pace, users in by_pace:
        passed += users
        if passed >= half:
            return pace
    return math.nan


def size_of(path: Path) -> int:
    """Return the bytes of a saved model's files; hidden ones and manifests do not count."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.name.startswith((".", "_")))
