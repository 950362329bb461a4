"""Snapshot Distillation (Yang et al. 2019)."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    inputs,
    kl,
    log_softmax,
    sgd,
    unwritten,
)


def snapshot_distillation(
    x,
    y,
    batches,
    kernel,
    bias,
    learning_rate,
    mini_generation_epochs,
    student_weight,
    teacher_weight,
    temperature,
):
    """L = student_weight CE + teacher_weight KL[softmax(z_teacher / T) || softmax(z)].

    T softens the teacher only; generation 0: CE only (slides of the paper, Eq. 3).
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    teacher = (unwritten(*kernel.shape), unwritten(*bias.shape))
    history, step = [], 0
    for epoch, steps in enumerate(batches):
        taught = epoch >= mini_generation_epochs
        if taught and epoch % mini_generation_epochs == 0:
            teacher = (kernel, bias)
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, ce_gradient = cross_entropy(logits, y[index])
            row = log_softmax((x[index] @ teacher[0] + teacher[1]) / temperature)
            value, slope = kl(logits, row, 1.0, "forward")
            ce_weight = student_weight if taught else 1.0
            guidance = teacher_weight * value
            means.add(
                loss=ce_weight * ce + guidance,
                distillation_loss=guidance,
                teacher_coverage=np.full(len(index), taught),
            )
            gradient = ce_weight * ce_gradient + teacher_weight * slope
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        memory = {"kernel": teacher[0], "bias": teacher[1]}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history
