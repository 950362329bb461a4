"""Snapshot Ensembles (Huang et al. 2017): predictions and learning rate."""

import numpy as np

from tests.oracles.common import (
    softmax,
)


def snapshot_ensemble_predict(snapshots, x):
    """The mean of softmax(x @ kernel + bias) over a list of (kernel, bias) (Snapshot Ensembles)."""
    x = np.asarray(x, dtype="float64")
    return np.mean([softmax(x @ kernel + bias) for kernel, bias in snapshots], axis=0)


def cyclic_cosine(step, initial, cycle_steps, total_steps, floor=0.0):
    """floor + (initial - floor) / 2 * (1 + cos(pi t / (n-1))), t = 0..n-1 in a cycle of n steps.

    The last cycle has the steps that are left; a one-step cycle and all after it: the floor.
    """
    start = step - step % cycle_steps
    n, t = min(cycle_steps, total_steps - start), step - start
    if step >= total_steps or n == 1:
        return float(floor)
    return float(floor + (initial - floor) / 2.0 * (1.0 + np.cos(np.pi * t / (n - 1))))
