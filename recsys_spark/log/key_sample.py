"""A small sample of a day's distinct keys, from which days can be compared without their keys.

The sample is the `SIZE` smallest 64-bit hashes of the keys (a "k minimum values" sketch; Beyer et al.,
"On synopses for distinct-value estimation under multiset operations", SIGMOD 2007). One hash function for
every day means that the samples of two days agree on the keys that the days share, so the share of keys
that no other day had can be read from samples alone; sketches that only count, such as HyperLogLog, would
have to take it from the difference of two large numbers, each with its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 16_384
"""Hashes of a sample: 128 KiB a day."""
_RANGE = 2.0**64


@dataclass(frozen=True)
class KeySample:
    """The smallest hashes of a set of keys; of fewer than `size` keys, all of them."""

    hashes: NDArray[np.uint64]
    """[<= size], ascending, distinct."""
    size: int = SIZE

    @classmethod
    def of(cls, hashes: NDArray[np.int64], size: int = SIZE) -> KeySample:
        """Make the sample of signed hashes, as Spark's `xxhash64` gives them."""
        unsigned = np.unique(np.asarray(hashes, np.int64).view(np.uint64) ^ np.uint64(1 << 63))
        return cls(unsigned[:size], size)

    @property
    def whole(self) -> bool:
        """Whether it holds every key, and not a sample of them."""
        return len(self.hashes) < self.size

    @property
    def distinct(self) -> int:
        """How many keys there are: exact below `size`, else (size - 1) / the largest hash as a share of all hashes.

        Relative standard error 1 / sqrt(size - 2): 0.8 %.
        """
        if self.whole:
            return len(self.hashes)
        return round((self.size - 1) / ((float(self.hashes[-1]) + 1) / _RANGE))

    def new_share(self, before: Sequence[KeySample]) -> float | None:
        """Return the share of these keys that none of the other sets has; None of no keys.

        It is counted over the hashes up to the smallest bound of all the samples: below that bound every
        sample is complete. Exact where all of them are whole. Otherwise the standard error is
        sqrt(p (1 - p) / m) for a share p and m hashes below the bound: 0.4 percentage points at most for sets of
        one size, and more against a much larger set (m = size × keys / the largest set's keys).
        """
        bound = min((s.hashes[-1] for s in (self, *before) if not s.whole), default=None)
        mine = self.hashes if bound is None else self.hashes[self.hashes <= bound]
        if not len(mine):
            return None
        seen = np.zeros(len(mine), bool)
        for other in before:
            seen |= np.isin(mine, other.hashes, assume_unique=True)
        return float((~seen).mean())
