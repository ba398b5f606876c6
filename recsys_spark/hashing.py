"""Random numbers that are hashes: any of them can be had without those before it, on any partition, in any order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix every bit of a uint64, one to one: the output function of SplitMix64 (Steele, Lea & Flood 2014).

    The i-th number of the generator with state s is `splitmix64(s + i * 0x9E3779B97F4A7C15)`, so any of them can be
    had without those before it.
    """
    z = x.copy()
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniforms(seed: int, keys: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return n numbers between 0 and 1, both left out, for each key: [B, n], a function of (seed, key) alone.

    The first n of more than n numbers are these same ones.

    >>> both = uniforms(1, np.array([7, 9]), 3)
    >>> bool((uniforms(1, np.array([9]), 2) == both[1:, :2]).all())
    True
    """
    salt = splitmix64(np.array([seed % 2**64], np.uint64))
    state = splitmix64(keys.astype(np.int64).view(np.uint64) + salt)
    step = np.arange(1, n + 1, dtype=np.uint64) * GOLDEN
    # 53 bits and a half, so that neither 0 nor 1 can come out
    return ((splitmix64(state[:, None] + step) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
