"""Early-learning regularization (Liu et al. 2020)."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    inputs,
    sgd,
    softmax,
)

LOW, HIGH = 1e-4, 1.0 - 1e-4


def regularizer(logits, target, momentum):
    """ln(1 - <t, p>), t = momentum * target + (1-momentum) p / sum_c p_c, p clipped.

    p = clip(softmax(z), 1e-4, 1 - 1e-4); t is a constant. With s = softmax(z), u_c = t_c where s_c
    is not clipped and 0 where it is: dL/dz_j = -s_j (u_j - sum_c u_c s_c) / (1 - <t, p>). Returns
    the values, gradients and t.
    """
    s = softmax(logits)
    p = np.clip(s, LOW, HIGH)
    t = momentum * target + (1.0 - momentum) * p / p.sum(axis=-1, keepdims=True)
    rest = 1.0 - (t * p).sum(axis=-1)
    u = np.where((s > LOW) & (s < HIGH), t, 0.0)
    slope = -s * (u - (u * s).sum(axis=-1, keepdims=True)) / rest[:, None]
    return np.log(rest), slope, t


def elr(x, y, batches, kernel, bias, learning_rate, momentum, weight):
    """L = CE + weight mean ln(1 - <t_i, p_i>), t_i just updated from 0 on (ELR, Eq. 6 and 9).

    t moves at an epoch boundary: each draw of a sample in an epoch starts from the same t, and its
    last one counts. A skipped sample keeps t.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    latest = np.zeros((len(x), len(bias)))
    history, step = [], 0
    for steps in batches:
        target = latest.copy()
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, gradient = cross_entropy(logits, y[index])
            value, slope, latest[index] = regularizer(logits, target[index], momentum)
            means.add(loss=ce + weight * value, distillation_loss=weight * value)
            gradient = gradient + weight * slope
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        history.append(Epoch(kernel, bias, means.result(), {"target": target}))
    return history
