"""Hints (Romero et al. 2015, Eq. 3) beside the crossentropy, for networks of two linear layers."""

import numpy as np

from tests.oracles.common import Epoch, Means, cross_entropy, log_softmax, softmax


def feature_matching(
    x, y, batches, student, teacher, regressor, rate, hint, logit_weight, temperature
):
    """L = CE + hint mean_j (u W_r + b_r - v)_j^2 + logit_weight T^2 KL[t_T || s_T].

    Networks are lists `[W_1, b_1, W_2, b_2]`; u and v are the outputs of their first layers, and
    the regressor `[W_r, b_r]` is trained with the student.
    """
    w1, b1, w2, b2, wr, br = (np.asarray(value, float) for value in [*student, *regressor])
    t1, c1, t2, c2 = (np.asarray(value, float) for value in teacher)
    x, y = np.asarray(x, float), np.asarray(y)
    history = []
    for steps in batches:
        means = Means()
        for index in steps:
            inputs, n = x[index], len(index)
            u, v = inputs @ w1 + b1, inputs @ t1 + c1
            logits, given = u @ w2 + b2, v @ t2 + c2
            ce, slope = cross_entropy(logits, y[index])
            error = u @ wr + br - v
            log_t, log_s = log_softmax(given / temperature), log_softmax(logits / temperature)
            kl = (np.exp(log_t) * (log_t - log_s)).sum(axis=-1)
            guidance = hint * (error**2).mean(axis=-1) + logit_weight * temperature**2 * kl
            means.add(loss=ce + guidance, distillation_loss=guidance)
            difference = softmax(logits / temperature) - np.exp(log_t)
            slope = (slope + logit_weight * temperature * difference) / n
            error = hint * 2 * error / error.shape[1] / n
            at_u = slope @ w2.T + error @ wr.T
            gradients = [
                inputs.T @ at_u, at_u.sum(0), u.T @ slope, slope.sum(0), u.T @ error, error.sum(0)
            ]  # fmt: skip
            weights = zip((w1, b1, w2, b2, wr, br), gradients, strict=True)
            w1, b1, w2, b2, wr, br = (weight - rate * slope for weight, slope in weights)
        history.append(Epoch(w1, b1, means.result(), {"w2": w2, "b2": b2, "wr": wr, "br": br}))
    return history
