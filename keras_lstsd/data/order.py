"""Orders and random numbers as hashes of integers, equal on every machine and backend."""

from typing import Any

import numpy as np


def mix(*words: Any) -> np.ndarray:
    """A 32-bit hash of integers: uint32; the words are broadcast against each other.

    Each word is added to the state, which then passes the finalizer of MurmurHash3.

    Args:
        words: Python integers or integer arrays; the lowest 32 bits of each are used.

    Source: Appleby 2011.
    """
    state = np.uint32(0)
    for word in words:
        word = word & 0xFFFFFFFF if isinstance(word, int) else word
        state = np.asarray(state + np.asarray(word).astype(np.uint32) + np.uint32(0x9E3779B9))
        state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        state = state ^ (state >> np.uint32(16))
    return state


def sample_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order in which an epoch draws its samples: a permutation, int32 `[num_samples]`.

    Samples are sorted by a hash of (seed, epoch, sample_index). So the order of an epoch does not
    depend on the epochs before it.

    Example:
        >>> keras_lstsd.data.sample_order(seed=0, epoch=3, num_samples=900)
    """
    with np.errstate(over="ignore"):
        keys = mix(seed, epoch, np.arange(num_samples))
    return np.argsort(keys, kind="stable").astype(np.int32)
