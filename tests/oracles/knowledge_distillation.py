"""Knowledge distillation (Hinton et al. 2015) from a given teacher."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    has_row,
    inputs,
    log_softmax,
    sgd,
    soft_cross_entropy,
    softmax,
)


def knowledge_distillation(
    x, y, batches, kernel, bias, learning_rate, teacher, alpha, temperature, weights=None
):
    """L = (1-alpha) H(y, q) + alpha T^2 H(softmax(t / T), softmax(s / T)) (ProKT, Eq. 1).

    `teacher`: the logits t [N, classes] of one fixed network, or one such array per epoch. A
    sample whose row is NaN has no teacher: its loss is H(y, q). `weights` [N] multiply each
    sample's loss; a batch's mean still divides by the number of samples.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    teacher = np.asarray(teacher, "float64")
    teachers = [teacher] * len(batches) if teacher.ndim == 2 else list(teacher)
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, "float64")
    history, step = [], 0
    for steps, logits_of_teacher in zip(batches, teachers, strict=True):
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, ce_gradient = cross_entropy(logits, y[index])
            row = log_softmax(logits_of_teacher[index] / temperature)
            soft, slope = soft_cross_entropy(logits, row, temperature)
            share, each = np.where(has_row(row), alpha, 0.0), weights[index]
            guidance = each * share * temperature**2 * soft
            means.add(
                loss=each * (1.0 - share) * ce + guidance,
                distillation_loss=guidance,
                teacher_coverage=has_row(row),
            )
            gradient = (1.0 - share)[:, None] * ce_gradient
            gradient = gradient + (share * temperature**2)[:, None] * slope
            gradient = each[:, None] * gradient
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        history.append(Epoch(kernel, bias, means.result(), {}))
    return history


def kept_classes(teacher, top_k, temperature):
    """softmax(t / T) with its `top_k` largest entries; the rest of the mass is spread evenly."""
    p = softmax(np.asarray(teacher, "float64") / temperature)
    largest = p >= np.sort(p)[:, [-top_k]]
    rest = np.where(largest, 0.0, p).sum(axis=-1, keepdims=True)
    return np.where(largest, p, rest / (p.shape[-1] - top_k))
