"""PS-KD (Kim et al. 2021): the previous epoch's prediction softens the label."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    has_row,
    inputs,
    log_softmax,
    sgd,
    softmax,
    unwritten,
)


def ps_kd(x, y, batches, kernel, bias, learning_rate, final_alpha):
    """L = H((1-a) y + a q, p) in epoch t = 1..n, a = final_alpha t / n (PS-KD, Eq. 5 and 7).

    q: the prediction of the previous epoch, from the forward pass that trained on the sample; a
    skipped sample keeps its latest one. A sample that was never drawn before has a = 0.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    latest = unwritten(len(x), len(bias))
    history, step = [], 0
    for t, steps in enumerate(batches, start=1):
        previous = latest.copy()
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            known = has_row(previous[index])
            a = np.where(known, final_alpha * t / len(batches), 0.0)[:, None]
            q = np.where(known[:, None], previous[index], 0.0)
            target = (1.0 - a) * np.eye(len(bias))[y[index]] + a * q
            log_p = log_softmax(logits)
            means.add(
                loss=-(target * log_p).sum(axis=-1),
                distillation_loss=-(a * q * log_p).sum(axis=-1),
                teacher_coverage=known,
            )
            latest[index] = softmax(logits)
            gradient = softmax(logits) - target
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        memory = {"previous": previous, "pending": latest.copy()}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history
