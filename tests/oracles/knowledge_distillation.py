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
    x, y, batches, kernel, bias, learning_rate, teacher, alpha, temperature, weights=None, kept=None
):
    """L = (1-alpha) H(y, q) + alpha T^2 H(softmax(t / T), softmax(s / T)) (ProKT, Eq. 1).

    `teacher`: the logits t [N, classes] of one fixed network, or one such array per epoch. A
    sample whose row is NaN has no teacher: its loss is H(y, q). `weights` [N] multiply each
    sample's loss; a batch's mean still divides by the number of samples. Of the teacher's row only
    the classes `kept` [N, classes] are known; the student shares the rest of the mass.
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
            if kept is not None:
                row = np.log(shared_rest(np.exp(row), kept[index], softmax(logits / temperature)))
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


def kept_classes(p, top_k):
    """Which classes are the `top_k` most probable ones."""
    return p >= np.sort(p)[:, [-top_k]]


def shared_rest(p, kept, shares):
    """Probabilities p of the classes `kept`; others share the rest in proportion to `shares`."""
    rest = np.where(kept, 0.0, p).sum(axis=-1, keepdims=True)
    others = np.where(kept, 0.0, shares)
    return np.where(kept, p, rest * others / others.sum(axis=-1, keepdims=True))
