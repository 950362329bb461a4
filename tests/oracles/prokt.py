"""ProKT (Shi et al. 2021, Algorithm 1): a teacher trained beside the student."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    Momentum,
    cross_entropy,
    dense_gradients,
    inputs,
    log_softmax,
    soft_cross_entropy,
)


def prokt(
    x,
    y,
    batches,
    kernel,
    bias,
    learning_rate,
    teacher,
    teacher_rate,
    projection,
    alpha,
    temperature,
    momentum,
    l2=0.0,
    weights=None,
):
    """Every step, first the teacher, then the student against the teacher just updated:

    L_t = (1-lambda) H(y, p) + lambda H(q, p) + l2 |kernel_t|^2 (Eq. 7, at T=1, q a constant),
    L_s = (1-alpha) H(y, q) + alpha T^2 H(softmax(t' / T), softmax(s / T)) (Eq. 1).

    q is of the student's weights before its update; t' of the teacher's after its own. `teacher`
    is (kernel, bias). Both are trained by SGD with momentum. `weights` [N] multiply each sample's
    losses.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    teacher = [np.array(w, dtype="float64") for w in teacher]
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, "float64")
    of_teacher, of_student = Momentum(momentum), Momentum(momentum)
    history = []
    for steps in batches:
        means = Means()
        for index in steps:
            some, labels, each = x[index], y[index], weights[index]
            logits = some @ kernel + bias
            ce, ce_gradient = cross_entropy(logits, labels)

            before = some @ teacher[0] + teacher[1]
            _, hard = cross_entropy(before, labels)
            _, soft = soft_cross_entropy(before, log_softmax(logits), 1.0)
            gradient = (1.0 - projection) * hard + projection * soft
            gradients = dense_gradients(some, each[:, None] * gradient)
            gradients[0] = gradients[0] + 2.0 * l2 * teacher[0]
            teacher = of_teacher.step(teacher, gradients, teacher_rate)

            after = some @ teacher[0] + teacher[1]
            row = log_softmax(after / temperature)
            value, slope = soft_cross_entropy(logits, row, temperature)
            guidance = each * alpha * temperature**2 * value
            means.add(
                loss=each * (1.0 - alpha) * ce + guidance,
                distillation_loss=guidance,
                teacher_accuracy=after.argmax(axis=-1) == labels,
            )
            gradient = (1.0 - alpha) * ce_gradient + alpha * temperature**2 * slope
            gradients = dense_gradients(some, each[:, None] * gradient)
            kernel, bias = of_student.step([kernel, bias], gradients, learning_rate)
        memory = {"teacher_kernel": teacher[0], "teacher_bias": teacher[1]}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history
