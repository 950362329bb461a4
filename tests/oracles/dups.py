"""DUPS: one teacher for each class."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    has_row,
    inputs,
    kl,
    sgd,
    softmax,
    unwritten,
)


def dups(
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
    """L = student_weight CE + teacher_weight KL[q_class || p_T] (DUPS, Eq. 2, 4, 5), else CE.

    q_class: the mean of softmax(z / T) over the class's draws in a stage's last epoch; a class
    not drawn there keeps its row. Without a class teacher (all of stage 0): CE, weight 1.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    classes = len(bias)
    teacher = unwritten(classes, classes)
    sums, draws = np.zeros((classes, classes)), np.zeros(classes)
    history, step = [], 0
    for epoch, steps in enumerate(batches):
        if epoch > 0 and epoch % mini_generation_epochs == 0:
            drawn = draws > 0  # in the previous epoch, the last of its stage
            teacher = teacher.copy()
            teacher[drawn] = sums[drawn] / draws[drawn, None]
        sums, draws = np.zeros((classes, classes)), np.zeros(classes)
        known = has_row(teacher)
        means = Means()
        for index in steps:
            labels = y[index]
            logits = x[index] @ kernel + bias
            ce, ce_gradient = cross_entropy(logits, labels)
            value, slope = kl(logits, np.log(teacher[labels]), temperature, "forward")
            ce_weight = np.where(known[labels], student_weight, 1.0)
            guidance = teacher_weight * value
            means.add(
                loss=ce_weight * ce + guidance,
                distillation_loss=guidance,
                teacher_coverage=known[labels],
            )
            np.add.at(sums, labels, softmax(logits / temperature))
            np.add.at(draws, labels, 1.0)
            gradient = ce_weight[:, None] * ce_gradient + teacher_weight * slope
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        memory = {"class_probabilities": teacher}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history
