"""Random numbers that depend on their name alone: a key and a position, no generator state.

The key of a sequence comes from the request's seed and the sample index, the position counts its tokens, so a
draw is the same whatever else is in the batch. The mixing function is SplitMix64 (Steele, Lea and Flood 2014,
https://doi.org/10.1145/2660193.2660195).
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def stream_keys(seed: int, streams: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One key for each stream number under a seed (any integer); different streams are independent."""
    root = _mix(np.array([seed & (1 << 64) - 1], np.uint64) + _GOLDEN)
    return _mix(root + (streams.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniforms(key_N: NDArray[np.uint64], position_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1) with 24 bits, one for each key and position (broadcast)."""
    bits = _mix(key_N + (position_N.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
