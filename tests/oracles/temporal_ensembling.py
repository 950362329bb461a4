"""Temporal Ensembling (Laine and Aila 2016)."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    has_row,
    inputs,
    kl,
    log_softmax,
    mse,
    ramp_up,
    sgd,
    softmax,
    unwritten,
)


def temporal_ensembling(
    x,
    y,
    batches,
    kernel,
    bias,
    learning_rate,
    momentum,
    weight,
    temperature,
    direction,
    ramp=0,
    loss="kl",
):
    """Z <- a Z + (1-a) p at every epoch boundary; teacher Z / (1 - a^k); L = CE + weight KL.

    p is the latest of the epoch; a skipped sample keeps Z and k (LSTSD, "Baselines"). With
    `ramp` R the weight is multiplied by exp(-5 (1 - min(t / R, 1))^2) in epoch t = 0, 1, ...
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    ensemble = np.zeros((len(x), len(bias)))
    updates = np.zeros(len(x), dtype="int64")
    latest = unwritten(len(x), len(bias))
    history, step = [], 0
    for epoch, steps in enumerate(batches):
        drawn = has_row(latest)  # in the previous epoch
        ensemble = ensemble.copy()
        ensemble[drawn] = momentum * ensemble[drawn] + (1.0 - momentum) * latest[drawn]
        updates = updates + drawn
        known = updates > 0
        teacher, latest = unwritten(*ensemble.shape), unwritten(*ensemble.shape)
        teacher[known] = np.log(ensemble[known] / (1.0 - momentum ** updates[known, None]))
        scaled = weight * ramp_up(epoch, ramp)
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, gradient = cross_entropy(logits, y[index])
            row = log_softmax(teacher[index] / temperature)
            if loss == "kl":
                value, slope = kl(logits, row, temperature, direction)
            else:
                value, slope = mse(logits, row, temperature)
            means.add(
                loss=ce + scaled * value,
                distillation_loss=scaled * value,
                teacher_coverage=known[index],
            )
            latest[index] = softmax(logits)
            gradient = gradient + scaled * slope
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        memory = {"ensemble": ensemble, "updates": updates}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history
