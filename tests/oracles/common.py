"""The linear student, its losses and gradients, in NumPy (float64)."""

from typing import NamedTuple

import numpy as np


class Epoch(NamedTuple):
    """Weights after an epoch, the epoch's means over samples, and the memory at its end."""

    kernel: np.ndarray
    bias: np.ndarray
    logs: dict
    memory: dict


def log_softmax(logits):
    """ln softmax(z), by row."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(logits):
    """softmax(z), by row."""
    return np.exp(log_softmax(logits))


def inputs(x, y, kernel, bias):
    """Own copies: x, kernel and bias in float64, y as integers [N]."""
    x, kernel, bias = (np.array(a, dtype="float64") for a in (x, kernel, bias))
    return x, np.array(y, dtype="int64").reshape(-1), kernel, bias


def sgd(kernel, bias, x, gradient, learning_rate, step):
    """w <- w - rate * dL/dw, with L the batch mean and `gradient` = d(per sample)/d logits."""
    rate = learning_rate(step) if callable(learning_rate) else learning_rate
    kernel = kernel - rate * (x.T @ gradient) / len(x)
    bias = bias - rate * gradient.sum(axis=0) / len(x)
    return kernel, bias


class Momentum:
    """v <- m v - rate * g; w <- w + v, for one list of weights; v starts at 0."""

    def __init__(self, momentum):
        self.momentum, self.velocities = momentum, None

    def step(self, weights, gradients, rate):
        if self.velocities is None:
            self.velocities = [np.zeros_like(w) for w in weights]
        pairs = zip(self.velocities, gradients, strict=True)
        self.velocities = [self.momentum * v - rate * g for v, g in pairs]
        return [w + v for w, v in zip(weights, self.velocities, strict=True)]


def dense_gradients(x, gradient):
    """Of the batch mean, for kernel and bias; `gradient` = d(per sample)/d logits."""
    return [x.T @ gradient / len(x), gradient.sum(axis=0) / len(x)]


class Means:
    """Means over the drawn samples: every draw counts once, so batches weigh by their size."""

    def __init__(self):
        self.total, self.count = {}, 0

    def add(self, **values):
        """Adds per-sample values [B], the same B for all names."""
        for name, value in values.items():
            self.total[name] = self.total.get(name, 0.0) + float(np.sum(value))
        self.count += len(value)

    def result(self):
        return {name: total / self.count for name, total in self.total.items()}


def cross_entropy(logits, labels):
    """-ln p_y; the gradient is p - onehot(y)."""
    log_p = log_softmax(logits)
    onehot = np.eye(logits.shape[-1])[labels]
    return -(onehot * log_p).sum(axis=-1), np.exp(log_p) - onehot


def soft_cross_entropy(logits, teacher, temperature):
    """H(q, p) = -sum_c q_c ln p_c, q = exp(teacher), p = softmax(z / T); 0 where `teacher` is NaN.

    dL/dz_j = (p_j - q_j) / T, as q sums to 1. No T^2.
    """
    log_p, known = log_softmax(logits / temperature), has_row(teacher)
    q = np.exp(teacher)
    value = -(q * log_p).sum(axis=-1)
    gradient = (np.exp(log_p) - q) / temperature
    return np.where(known, value, 0.0), np.where(known[:, None], gradient, 0.0)


def kl(logits, teacher, temperature, direction):
    """KL between p = softmax(z / T) and q = exp(teacher), no T^2; 0 where `teacher` is NaN.

    reverse KL[p || q]: dL/dz_j = p_j (ln p_j - ln q_j - KL) / T   (LSTSD, Eq. 1)
    forward KL[q || p]: dL/dz_j = (p_j - q_j) / T
    """
    log_p, known = log_softmax(logits / temperature), has_row(teacher)
    p, q = np.exp(log_p), np.exp(teacher)
    if direction == "reverse":
        value = (p * (log_p - teacher)).sum(axis=-1)
        gradient = p * (log_p - teacher - value[:, None]) / temperature
    elif direction == "forward":
        value = (q * (teacher - log_p)).sum(axis=-1)
        gradient = (p - q) / temperature
    else:
        raise ValueError(f"direction must be 'reverse' or 'forward', received {direction!r}")
    return np.where(known, value, 0.0), np.where(known[:, None], gradient, 0.0)


def mse(logits, teacher, temperature):
    """mean_c (p_c - q_c)^2; with d = p - q: dL/dz_j = 2 p_j (d_j - sum_c p_c d_c) / (C T)."""
    p, known = softmax(logits / temperature), has_row(teacher)
    d = p - np.exp(teacher)
    value = (d**2).mean(axis=-1)
    slope = d - (p * d).sum(axis=-1, keepdims=True)
    gradient = 2.0 * p * slope / (p.shape[-1] * temperature)
    return np.where(known, value, 0.0), np.where(known[:, None], gradient, 0.0)


def ramp_up(epoch, ramp):
    """exp(-5 (1 - min(t / R, 1))^2) in epoch t = 0, 1, ...; 1 where R is 0 (Laine and Aila)."""
    return np.exp(-5 * (1 - min(epoch / ramp, 1)) ** 2) if ramp else 1.0


def has_row(rows):
    """True where a row was ever written: unwritten rows are NaN."""
    return ~np.isnan(rows).any(axis=-1)


def unwritten(*shape):
    """An array that stands for "nothing yet"."""
    return np.full(shape, np.nan)
