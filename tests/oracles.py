"""Reference simulations of one-generation self-distillation, in NumPy (float64) alone.

The student is linear: logits = x @ kernel + bias, trained with plain SGD on sparse labels.
All gradients are written out by hand; teachers are constants. Each simulator takes
`(x, y, batches, kernel, bias, learning_rate, ...)`, where `batches` holds one list of index
arrays per epoch and `learning_rate` is a number or a function of the step (from 0), and
returns one `Epoch` per epoch. A batch's loss is the mean over all its samples: a sample
without a teacher adds 0 to the guidance and still counts in the mean.
"""

from typing import NamedTuple

import numpy as np


class Epoch(NamedTuple):
    """Weights after an epoch, the epoch's means over samples, and the memory at its end."""

    kernel: np.ndarray
    bias: np.ndarray
    logs: dict
    memory: dict


# === the student ===


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


class Means:
    """Means over the samples met: every draw counts once, so batches weigh by their size."""

    def __init__(self):
        self.total, self.count = {}, 0

    def add(self, **values):
        """Adds per-sample values [B], the same B for all names."""
        for name, value in values.items():
            self.total[name] = self.total.get(name, 0.0) + float(np.sum(value))
        self.count += len(value)

    def result(self):
        return {name: total / self.count for name, total in self.total.items()}


# === per-sample losses: (values [B], gradients with respect to the logits [B, C]) ===


def cross_entropy(logits, labels):
    """-ln p_y; the gradient is p - onehot(y)."""
    log_p = log_softmax(logits)
    onehot = np.eye(logits.shape[-1])[labels]
    return -(onehot * log_p).sum(axis=-1), np.exp(log_p) - onehot


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


def has_row(rows):
    """True where a row was ever written: unwritten rows are NaN."""
    return ~np.isnan(rows).any(axis=-1)


def unwritten(*shape):
    """An array that stands for "nothing yet"."""
    return np.full(shape, np.nan)


# === LSTSD ===


def timeline(mini_generation_epochs, epochs):
    """Per epoch (long, short): the epochs whose rows teach (METHODS, worked LSTSD timeline).

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
):
    """L = CE + long_weight KL[p_T || long_T] + short_weight KL[p_T || short_T] (LSTSD, Alg. 1).

    Rows are ln p at T=1 from the forward pass that trained on the sample.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    short, long, pending = (unwritten(len(x), len(bias)) for _ in range(3))
    history, step = [], 0
    for epoch, steps in enumerate(batches):
        if epoch >= mini_generation_epochs:
            short = pending.copy()
            if epoch % mini_generation_epochs == 0:
                long = pending.copy()
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, gradient = cross_entropy(logits, y[index])
            long_row = log_softmax(long[index] / temperature)
            short_row = log_softmax(short[index] / temperature)
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
            pending[index] = log_softmax(logits)
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        memory = {"short_term": short, "long_term": long, "pending": pending.copy()}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history


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


# === moving averages ===


def temporal_ensembling(
    x, y, batches, kernel, bias, learning_rate, momentum, weight, temperature, direction
):
    """Z <- a Z + (1-a) p at every epoch edge; teacher Z / (1 - a^k); L = CE + weight KL.

    p is the epoch's latest; a skipped sample keeps Z and k (LSTSD, "Baselines"; METHODS).
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    ensemble = np.zeros((len(x), len(bias)))
    updates = np.zeros(len(x), dtype="int64")
    latest = unwritten(len(x), len(bias))
    history, step = [], 0
    for steps in batches:
        met = has_row(latest)  # in the previous epoch
        ensemble = ensemble.copy()
        ensemble[met] = momentum * ensemble[met] + (1.0 - momentum) * latest[met]
        updates = updates + met
        known = updates > 0
        teacher, latest = unwritten(*ensemble.shape), unwritten(*ensemble.shape)
        teacher[known] = np.log(ensemble[known] / (1.0 - momentum ** updates[known, None]))
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, gradient = cross_entropy(logits, y[index])
            row = log_softmax(teacher[index] / temperature)
            value, slope = kl(logits, row, temperature, direction)
            means.add(
                loss=ce + weight * value,
                distillation_loss=weight * value,
                teacher_coverage=known[index],
            )
            latest[index] = softmax(logits)
            gradient = gradient + weight * slope
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        memory = {"ensemble": ensemble, "updates": updates}
        history.append(Epoch(kernel, bias, means.result(), memory))
    return history


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
    rampup_steps=0,
    loss="kl",
):
    """After step t: w' <- a_t w' + (1-a_t) w, a_t = min(1 - 1/(t+1), a); L = CE + weight KL.

    Step 0 has no teacher; ramp-up: weight * min(1, t / rampup_steps) (LSTSD, "Baselines").
    """
    if loss not in ("kl", "mse"):
        raise ValueError(f"loss must be 'kl' or 'mse', received {loss!r}")
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    mean_kernel, mean_bias = unwritten(*kernel.shape), unwritten(*bias.shape)
    history, step = [], 0
    for steps in batches:
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            ce, gradient = cross_entropy(logits, y[index])
            row = log_softmax((x[index] @ mean_kernel + mean_bias) / temperature)
            if loss == "kl":
                value, slope = kl(logits, row, temperature, direction)
            else:
                value, slope = mse(logits, row, temperature)
            ramp = min(1.0, step / rampup_steps) if rampup_steps > 0 else 1.0
            guidance = weight * ramp * value
            means.add(
                loss=ce + guidance,
                distillation_loss=guidance,
                teacher_coverage=np.full(len(index), step > 0),
            )
            gradient = gradient + weight * ramp * slope
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


# === snapshots ===


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

    T softens the teacher alone; generation 0: CE alone (SD slides, Eq. 3 and principle 3).
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


def snapshot_ensemble_predict(snapshots, x):
    """The mean of softmax(x @ kernel + bias) over a list of (kernel, bias) (Snapshot Ensembles)."""
    x = np.asarray(x, dtype="float64")
    return np.mean([softmax(x @ kernel + bias) for kernel, bias in snapshots], axis=0)


def cyclic_cosine(step, initial, cycle_steps, total_steps, floor=0.0):
    """floor + (initial - floor) / 2 * (1 + cos(pi t / (n-1))), t = 0..n-1 in a cycle of n steps.

    The last cycle has the steps that are left; a one-step cycle and all after it: the floor.
    """
    start = step - step % cycle_steps
    n, t = min(cycle_steps, total_steps - start), step - start
    if step >= total_steps or n == 1:
        return float(floor)
    return float(floor + (initial - floor) / 2.0 * (1.0 + np.cos(np.pi * t / (n - 1))))


# === DUPS ===


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
    not met there keeps what it had. Without a class teacher (all of stage 0): CE, weight 1.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    classes = len(bias)
    teacher = unwritten(classes, classes)
    sums, draws = np.zeros((classes, classes)), np.zeros(classes)
    history, step = [], 0
    for epoch, steps in enumerate(batches):
        if epoch > 0 and epoch % mini_generation_epochs == 0:
            met = draws > 0  # in the previous epoch, the last of its stage
            teacher = teacher.copy()
            teacher[met] = sums[met] / draws[met, None]
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
