"""Mean Teacher (Tarvainen and Valpola 2017)."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    inputs,
    kl,
    log_softmax,
    mse,
    ramp_up,
    sgd,
    unwritten,
)


def mean_teacher(
    x,
    y,
    batches,
    kernel,
    bias,
    learning_rate,
    average_momentum,
    weight,
    temperature,
    direction,
    ramp=0,
    loss="kl",
):
    """After step t: w' <- a_t w' + (1-a_t) w, a_t = min(1 - 1/(t+1), a); L = CE + weight KL.

    Step 0 has no teacher. With `ramp` R the weight is multiplied by exp(-5 (1 - min(e / R, 1))^2)
    in epoch e = 0, 1, ...
    """
    if loss not in ("kl", "mse"):
        raise ValueError(f"loss must be 'kl' or 'mse', received {loss!r}")
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    mean_kernel, mean_bias = unwritten(*kernel.shape), unwritten(*bias.shape)
    history, step = [], 0
    for epoch, steps in enumerate(batches):
        rise = ramp_up(epoch, ramp)
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, gradient = cross_entropy(logits, y[index])
            row = log_softmax((x[index] @ mean_kernel + mean_bias) / temperature)
            if loss == "kl":
                value, slope = kl(logits, row, temperature, direction)
            else:
                value, slope = mse(logits, row, temperature)
            guidance = weight * rise * value
            means.add(
                loss=ce + guidance,
                distillation_loss=guidance,
                teacher_coverage=np.full(len(index), step > 0),
            )
            gradient = gradient + weight * rise * slope
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            if step == 0:  # a_0 = 0: the average starts as a copy
                mean_kernel, mean_bias = kernel, bias
            else:
                a = min(1.0 - 1.0 / (step + 1), average_momentum)
                mean_kernel = a * mean_kernel + (1.0 - a) * kernel
                mean_bias = a * mean_bias + (1.0 - a) * bias
            step += 1
        memory = {"kernel": mean_kernel, "bias": mean_bias}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history
