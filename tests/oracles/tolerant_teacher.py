"""The tolerant teacher (Yang et al., AAAI 2019; slides of Snapshot Distillation)."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    inputs,
    sgd,
    softmax,
)


def gap(logits, top_k):
    """f_a1 - 1/(K-1) sum_{k=2..K} f_ak, f_ak the k-th largest of f = softmax(z), T=1.

    With w_c = 1 for the largest score, -1/(K-1) for the next K - 1 and 0 for others:
    dL/dz_j = f_j (w_j - sum_c w_c f_c). Of equal scores the first class counts as the larger.
    """
    f = softmax(logits)
    order = np.argsort(-f, axis=-1, kind="stable")[:, :top_k]
    slope = np.zeros_like(f)
    np.put_along_axis(slope, order[:, 1:], -1.0 / (top_k - 1), axis=-1)
    np.put_along_axis(slope, order[:, :1], 1.0, axis=-1)
    value = (slope * f).sum(axis=-1)
    return value, f * (slope - value[:, None])


def tolerant_teacher(x, y, batches, kernel, bias, learning_rate, eta, top_k):
    """L = eta H(y, f) + (1-eta) [f_a1 - 1/(K-1) sum_{k=2..K} f_ak] (slides, "How a Tolerant
    Teacher Works")."""
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    history, step = [], 0
    for steps in batches:
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, ce_gradient = cross_entropy(logits, y[index])
            value, slope = gap(logits, top_k)
            guidance = (1.0 - eta) * value
            means.add(loss=eta * ce + guidance, distillation_loss=guidance)
            gradient = eta * ce_gradient + (1.0 - eta) * slope
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        history.append(Epoch(kernel, bias, means.result(), {}))
    return history
