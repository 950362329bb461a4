"""LSTSD (Jiang et al. 2020, Algorithm 1)."""

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    has_row,
    inputs,
    kl,
    log_softmax,
    ramp_up,
    sgd,
    unwritten,
)


def timeline(mini_generation_epochs, epochs):
    """Per epoch (long, short): the epochs whose rows teach.

    E=3: epochs 0, 1, 2 none; 3: long 2, short 2; 4: long 2, short 3; 5: long 2, short 4;
    6: long 5, short 5. Mini-generation 0 has (None, None).
    """
    teachers = []
    for epoch in range(epochs):
        first = epoch - epoch % mini_generation_epochs  # of this mini-generation
        teachers.append((first - 1, epoch - 1) if first > 0 else (None, None))
    return teachers


def lstsd(
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
    ramp=0,
):
    """L = CE + long_weight KL[p_T || long_T] + short_weight KL[p_T || short_T] (LSTSD, Alg. 1).

    Rows are ln p at T=1 from the forward pass that trained on the sample. With `ramp` R both
    weights are multiplied by exp(-5 (1 - min(t / R, 1))^2) in epoch t = 0, 1, ...
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    short, long, pending = (unwritten(len(x), len(bias)) for _ in range(3))
    history, step = [], 0
    for epoch, steps in enumerate(batches):
        if epoch >= mini_generation_epochs:
            short = pending.copy()
            if epoch % mini_generation_epochs == 0:
                long = pending.copy()
        rise = ramp_up(epoch, ramp)
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, gradient = cross_entropy(logits, y[index])
            long_row = log_softmax(long[index] / temperature)
            short_row = log_softmax(short[index] / temperature)
            long_kl, long_gradient = kl(logits, long_row, temperature, direction)
            short_kl, short_gradient = kl(logits, short_row, temperature, direction)
            guidance = rise * (long_weight * long_kl + short_weight * short_kl)
            slope = long_weight * long_gradient + short_weight * short_gradient
            gradient = gradient + rise * slope
            means.add(
                loss=ce + guidance,
                distillation_loss=guidance,
                teacher_coverage=has_row(long_row) | has_row(short_row),
                long_term_loss=long_kl * (long_weight > 0),
                short_term_loss=short_kl * (short_weight > 0),
            )
            pending[index] = log_softmax(logits)
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        memory = {"short_term": short, "long_term": long, "pending": pending.copy()}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history
