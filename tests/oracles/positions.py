"""Methods for students with classes at several positions of a sample, in NumPy (float64).

Logits are `[N, P, K]`: P tokens of K classes, or P labels of 2 classes `[0, z]`. With
`each = weight * mask / sum(mask)` the loss of a batch is `sum_np each_np * loss_np`.
A position without a teacher adds 0 to the guidance. `common.Epoch` is the result per epoch.
"""

from typing import NamedTuple

import numpy as np

from tests.oracles.common import Epoch, log_softmax, softmax, unwritten


class Data(NamedTuple):
    """Inputs [N, ...]; labels, mask and sample weights [N, P]."""

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray
    weights: np.ndarray


class Tokens:
    """A linear layer at each token."""

    def __init__(self, kernel, bias):
        self.kernel, self.bias = (np.array(w, "float64") for w in (kernel, bias))

    def logits(self, x):
        return x @ self.kernel + self.bias

    def shape(self, samples, positions):
        return samples, positions, len(self.bias)

    def classes(self, y):
        """The class number of each position, and how many there are."""
        return y, len(self.bias)

    def weights(self, share):
        """The weights of the compiled loss for weights of the positions."""
        return share

    def descend(self, x, slope, rate):
        """w <- w - rate * dL/dw, with `slope` = dL/d logits."""
        self.kernel = self.kernel - rate * np.einsum("npf,npk->fk", x, slope)
        self.bias = self.bias - rate * slope.sum((0, 1))


class Labels(Tokens):
    """A linear layer of one logit z a label, which has the classes [0, z]."""

    def logits(self, x):
        z = x @ self.kernel + self.bias
        return np.stack([np.zeros_like(z), z], axis=-1)

    def shape(self, samples, positions):
        return samples, positions, 2

    def classes(self, y):
        """2 * label + value."""
        return 2 * np.arange(y.shape[1]) + y, 2 * y.shape[1]

    def weights(self, share):
        """A sample has one compiled loss for all its labels, and so the mean of their weights."""
        return np.broadcast_to(share.mean(-1, keepdims=True), share.shape)

    def descend(self, x, slope, rate):
        self.kernel = self.kernel - rate * x.T @ slope[..., 1]
        self.bias = self.bias - rate * slope[..., 1].sum(0)


def cross_entropy(logits, y):
    """-ln p_y per position, and its gradient p - onehot(y)."""
    log_p, onehot = log_softmax(logits), np.eye(logits.shape[-1])[y]
    return -(onehot * log_p).sum(-1), np.exp(log_p) - onehot


def soft_cross_entropy(logits, log_q, temperature):
    """-sum_c q_c ln p_c per position, p at T; dL/dz = (p - q) / T."""
    log_p, q = log_softmax(logits / temperature), np.exp(log_q)
    return -(q * log_p).sum(-1), (np.exp(log_p) - q) / temperature


def kl(logits, log_q, temperature, direction):
    """KL[p || q] (reverse) or KL[q || p] per position, p at T, and its gradient; 0 where q is NaN.

    reverse: dL/dz_j = p_j (ln p_j - ln q_j - KL) / T; forward: (p_j - q_j) / T.
    """
    log_p = log_softmax(logits / temperature)
    if direction == "reverse":
        value = (np.exp(log_p) * (log_p - log_q)).sum(-1)
        slope = np.exp(log_p) * (log_p - log_q - value[..., None]) / temperature
    else:
        value = (np.exp(log_q) * (log_q - log_p)).sum(-1)
        slope = (np.exp(log_p) - np.exp(log_q)) / temperature
    return np.nan_to_num(value), np.nan_to_num(slope)


def mse(logits, log_q, temperature):
    """mean_c d_c^2, d = p - q at T; dL/dz_j = 2 p_j (d_j - sum_c p_c d_c) / (K T)."""
    p = softmax(logits / temperature)
    d = p - np.exp(log_q)
    slope = 2 * p * (d - (p * d).sum(-1, keepdims=True)) / (p.shape[-1] * temperature)
    return np.nan_to_num((d**2).mean(-1)), np.nan_to_num(slope)


def known(rows):
    """True where a row was written."""
    return ~np.isnan(rows).any(-1)


class LSTSD:
    """+ long_weight KL[p_T, long_T] + short_weight KL[p_T, short_T] from mini-generation 1 on."""

    def __init__(self, shape, generation, long_weight, short_weight, temperature, direction):
        self.settings = temperature, direction
        self.generation, self.weights = generation, (long_weight, short_weight)
        self.long, self.short, self.pending = (unwritten(*shape) for _ in range(3))

    def start(self, epoch):
        if epoch >= self.generation:
            self.short = self.pending.copy()
        if epoch and epoch % self.generation == 0:
            self.long = self.pending.copy()

    def guidance(self, index, x, logits):
        long, short = (
            kl(logits, log_softmax(rows[index] / self.settings[0]), *self.settings)
            for rows in (self.long, self.short)
        )
        value, slope = (
            self.weights[0] * a + self.weights[1] * b for a, b in zip(long, short, strict=True)
        )
        logs = {"long_term_loss": long[0], "short_term_loss": short[0]}
        return 1.0, value, slope, logs | {"teacher_coverage": known(self.short[index])}

    def record(self, index, y, logits):
        self.pending[index] = log_softmax(logits)

    def after(self, network):
        pass

    def memory(self):
        return {"long_term": self.long, "short_term": self.short, "pending": self.pending.copy()}


class TemporalEnsembling(LSTSD):
    """Z <- a Z + (1-a) p at each epoch's start; + weight KL[p_T, (Z / (1 - a^k))_T]."""

    def __init__(self, shape, momentum, weight, temperature, direction):
        self.settings = temperature, direction
        self.momentum, self.weight = momentum, weight
        self.ensemble, self.updates = np.zeros(shape), np.zeros(shape[:2], int)
        self.latest = unwritten(*shape)

    def start(self, epoch):
        drawn, a = known(self.latest), self.momentum
        self.ensemble[drawn] = a * self.ensemble[drawn] + (1 - a) * self.latest[drawn]
        self.updates += drawn
        self.latest, self.teacher = (unwritten(*self.latest.shape) for _ in range(2))
        has, bias = self.updates > 0, 1 - a**self.updates
        self.teacher[has] = np.log(self.ensemble[has] / bias[has][:, None])

    def guidance(self, index, x, logits):
        rows = log_softmax(self.teacher[index] / self.settings[0])
        value, slope = kl(logits, rows, *self.settings)
        return 1.0, self.weight * value, self.weight * slope, {"teacher_coverage": known(rows)}

    def record(self, index, y, logits):
        self.latest[index] = softmax(logits)

    def memory(self):
        return {"ensemble": self.teacher}


class MeanTeacher(TemporalEnsembling):
    """+ weight D[p_T, q_T], q of w' <- a_t w' + (1 - a_t) w, a_t = min(1 - 1/(t+1), a)."""

    def __init__(self, network, momentum, weight, temperature, direction, divergence="kl"):
        self.settings, self.divergence = (temperature, direction), divergence
        self.momentum, self.weight, self.steps = momentum, weight, 0
        self.average = type(network)(network.kernel * np.nan, network.bias * np.nan)

    def start(self, epoch):
        pass

    def guidance(self, index, x, logits):
        rows = log_softmax(self.average.logits(x) / self.settings[0])
        if self.divergence == "mse":
            value, slope = mse(logits, rows, self.settings[0])
        else:
            value, slope = kl(logits, rows, *self.settings)
        coverage = np.full(value.shape, float(self.steps > 0))
        return 1.0, self.weight * value, self.weight * slope, {"teacher_coverage": coverage}

    def record(self, index, y, logits):
        pass

    def after(self, network):
        a = min(1 - 1 / (self.steps + 1), self.momentum)
        for name in ("kernel", "bias"):
            old = getattr(self.average, name) if self.steps else 0.0
            setattr(self.average, name, a * old + (1 - a) * getattr(network, name))
        self.steps += 1

    def memory(self):
        return {"kernel": self.average.kernel, "bias": self.average.bias}


class KnowledgeDistillation(MeanTeacher):
    """(1 - alpha) CE + alpha T^2 H(q_T, p_T), q of a fixed network."""

    def __init__(self, teacher, alpha, temperature):
        self.teacher, self.alpha, self.temperature = teacher, alpha, temperature

    def guidance(self, index, x, logits):
        rows = log_softmax(self.teacher.logits(x) / self.temperature)
        value, slope = soft_cross_entropy(logits, rows, self.temperature)
        scale = self.alpha * self.temperature**2
        coverage = np.ones(value.shape)
        return 1 - self.alpha, scale * value, scale * slope, {"teacher_coverage": coverage}

    def after(self, network):
        pass

    def memory(self):
        return {}


class DUPS:
    """student_weight CE + teacher_weight KL[q_class || p_T]; CE where q_class is unknown.

    q_class: the mean of softmax(z / T) over the class's positions in a stage's last epoch.
    """

    def __init__(self, network, data, generation, student_weight, teacher_weight, temperature):
        self.y, count = network.classes(data.y)
        self.network = network
        self.mask, self.generation, self.temperature = data.mask, generation, temperature
        self.student_weight, self.teacher_weight = student_weight, teacher_weight
        self.rows = unwritten(count, network.shape(1, 1)[-1])
        self.sums, self.count = np.zeros_like(self.rows), np.zeros(count)

    def start(self, epoch):
        if epoch and epoch % self.generation == 0:
            drawn = self.count > 0
            self.rows = self.rows.copy()
            self.rows[drawn] = self.sums[drawn] / self.count[drawn, None]
        self.sums, self.count = np.zeros_like(self.sums), np.zeros_like(self.count)

    def guidance(self, index, x, logits):
        rows = self.rows[self.y[index]]
        value, slope = kl(logits, np.log(rows), self.temperature, "forward")
        share = self.network.weights(np.where(known(rows), self.student_weight, 1.0))
        weight = self.teacher_weight
        return share, weight * value, weight * slope, {"teacher_coverage": known(rows)}

    def record(self, index, y, logits):
        counted = self.mask[index]
        classes = self.y[index][counted]
        np.add.at(self.sums, classes, softmax(logits / self.temperature)[counted])
        np.add.at(self.count, classes, 1)

    def after(self, network):
        pass

    def memory(self):
        return {"class_probabilities": self.rows}


def train(method, network, data, batches, rate):
    """One `Epoch` per epoch; `loss` is the mean of batch losses, weighted by samples."""
    history = []
    for epoch, steps in enumerate(batches):
        method.start(epoch)
        seen, losses, logs = [], [], {}
        for index in steps:
            x, y, mask, weights = (array[index] for array in data)
            each = weights * mask / max(mask.sum(), 1)
            logits = network.logits(x)
            task, task_slope = cross_entropy(logits, y)
            share, value, slope, more = method.guidance(index, x, logits)
            losses.append(len(index) * (each * (share * task + value)).sum())
            slope = np.asarray(share)[..., None] * task_slope + slope
            for name, values in (more | {"distillation_loss": weights * value}).items():
                logs.setdefault(name, []).append(values[mask])
            method.record(index, y, logits)
            network.descend(x, each[..., None] * slope, rate)
            method.after(network)
            seen.append(len(index))
        means = {name: np.concatenate(values).mean() for name, values in logs.items()}
        means["loss"] = sum(losses) / sum(seen)
        history.append(Epoch(network.kernel, network.bias, means, method.memory()))
    return history
