"""LSTSD with one teacher network for all samples (Jiang et al. 2020, Table 3)."""

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    has_row,
    inputs,
    kl,
    log_softmax,
    sgd,
    unwritten,
)


def single_teacher(
    x,
    y,
    batches,
    kernel,
    bias,
    learning_rate,
    mini_generation_epochs,
    long_weight,
    short_weight,
    temperature,
    direction="reverse",
):
    """LSTSD "single" (Table 3): the losses of `lstsd`, one teacher network for all samples.

    Teachers: the weights at the end of the previous mini-generation and of the previous epoch.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    short = long = (unwritten(*kernel.shape), unwritten(*bias.shape))
    history, step = [], 0
    for epoch, steps in enumerate(batches):
        if epoch >= mini_generation_epochs:
            short = (kernel, bias)
            if epoch % mini_generation_epochs == 0:
                long = (kernel, bias)
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, gradient = cross_entropy(logits, y[index])
            long_row = log_softmax((x[index] @ long[0] + long[1]) / temperature)
            short_row = log_softmax((x[index] @ short[0] + short[1]) / temperature)
            long_kl, long_gradient = kl(logits, long_row, temperature, direction)
            short_kl, short_gradient = kl(logits, short_row, temperature, direction)
            guidance = long_weight * long_kl + short_weight * short_kl
            gradient = gradient + long_weight * long_gradient + short_weight * short_gradient
            means.add(
                loss=ce + guidance,
                distillation_loss=guidance,
                teacher_coverage=has_row(long_row) | has_row(short_row),
                long_term_loss=long_kl,
                short_term_loss=short_kl,
            )
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        memory = {
            "short_kernel": short[0],
            "short_bias": short[1],
            "long_kernel": long[0],
            "long_bias": long[1],
        }
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history
