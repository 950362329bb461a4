"""CRD (Tian et al. 2020), alone, with KD, and with ProKT, for networks of two linear layers."""

import numpy as np

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    log_softmax,
    soft_cross_entropy,
    softmax,
)

EPS = 1e-7


def nce(anchors, memory, rows, temperature, constant):
    """-ln P_0 - sum_k ln P_k per anchor, its gradient, and Z; row 0 of `rows` is the positive.

    P_0 = x_0 / (x_0 + K/N + eps), P_k = (K/N) / (x_k + K/N + eps), x = exp(u . v / T) / Z.
    """
    n, k = len(memory), rows.shape[1] - 1
    v = memory[rows]
    x = np.exp((v * anchors[:, None]).sum(-1) / temperature)
    constant = n * x.mean() if constant is None else constant
    x = x / constant
    below = x + k / n + EPS
    loss = -np.log(x[:, 0] / below[:, 0]) - np.log((k / n) / below[:, 1:]).sum(-1)
    # d(-ln P_k)/dx = 1 / below, of the positive 1 / below - 1 / x; dx/du = x v / T.
    slope = 1 / below
    slope[:, 0] -= 1 / x[:, 0]
    gradient = ((slope * x)[:, :, None] * v).sum(1) / temperature
    return loss, gradient, constant


def unit(a):
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


def through_unit(a, gradient):
    """The gradient at a of a function of a / |a|."""
    u, length = unit(a), np.linalg.norm(a, axis=-1, keepdims=True)
    return (gradient - (gradient * u).sum(-1, keepdims=True) * u) / length


def crd(
    x,
    y,
    batches,
    student,
    teacher,
    layers,
    memories,
    draws,
    rate,
    *,
    temperature,
    momentum,
    weight=0.8,
    task_weight=1.0,
    kd_weight=0.0,
    kd_temperature=4.0,
    projection=None,
):
    """L = task_weight CE + weight (NCE_s + NCE_t) + kd_weight T^2 H(p_T, q_T).

    Networks are `[W_1, b_1, W_2, b_2]`, their features the outputs of the first layers; `layers`
    are the linear layers `[W_s, b_s, W_t, b_t]` of the contrast. `draws` has one `[batch, K]` of
    sample numbers per step. With a `projection` the teacher is trained before the student, as in
    ProKT (Shi et al. 2021, Algorithm 1), at the same rate.
    """
    x, y = np.asarray(x, float), np.asarray(y)
    student, teacher, layers = (
        [np.asarray(value, float) for value in values] for values in (student, teacher, layers)
    )
    memory_s, memory_t = (np.array(memory, float) for memory in memories)
    z_s = z_t = None
    history, draws = [], iter(draws)
    for steps in batches:
        means = Means()
        for index in steps:
            inputs, labels, n = x[index], y[index], len(index)
            u = inputs @ student[0] + student[1]
            logits = u @ student[2] + student[3]
            if projection is not None:
                v = inputs @ teacher[0] + teacher[1]
                p = v @ teacher[2] + teacher[3]
                _, hard = cross_entropy(p, labels)
                _, soft = soft_cross_entropy(p, log_softmax(logits), 1.0)
                slope = ((1 - projection) * hard + projection * soft) / n
                at_v = slope @ teacher[2].T
                gradients = [inputs.T @ at_v, at_v.sum(0), v.T @ slope, slope.sum(0)]
                teacher = [w - rate * g for w, g in zip(teacher, gradients, strict=True)]
            v = inputs @ teacher[0] + teacher[1]
            given = v @ teacher[2] + teacher[3]

            rows = np.concatenate([np.asarray(index)[:, None], next(draws)], axis=1)
            a_s, a_t = u @ layers[0] + layers[1], v @ layers[2] + layers[3]
            loss_s, at_s, z_s = nce(unit(a_s), memory_t, rows, temperature, z_s)
            loss_t, at_t, z_t = nce(unit(a_t), memory_s, rows, temperature, z_t)
            at_s, at_t = through_unit(a_s, at_s), through_unit(a_t, at_t)
            for memory, a in ((memory_s, a_s), (memory_t, a_t)):
                memory[index] = unit(momentum * memory[index] + (1 - momentum) * unit(a))

            ce, slope = cross_entropy(logits, labels)
            p_t, log_q = softmax(given / kd_temperature), log_softmax(logits / kd_temperature)
            guidance = weight * (loss_s + loss_t)
            guidance = guidance - kd_weight * kd_temperature**2 * (p_t * log_q).sum(-1)
            means.add(loss=task_weight * ce + guidance, distillation_loss=guidance)
            slope = task_weight * slope + kd_weight * kd_temperature * (np.exp(log_q) - p_t)
            at_u = slope @ student[2].T + weight * at_s @ layers[0].T
            gradients = [
                inputs.T @ at_u, at_u.sum(0), u.T @ slope, slope.sum(0),
                weight * u.T @ at_s, weight * at_s.sum(0), weight * v.T @ at_t, weight * at_t.sum(0)
            ]  # fmt: skip
            weights = zip([*student, *layers], gradients, strict=True)
            weights = [w - rate * g / n for w, g in weights]
            student, layers = weights[:4], weights[4:]
        memory = {"student": memory_s.copy(), "teacher": memory_t.copy()}
        memory |= {"layers": layers, "teacher_weights": teacher, "w2": student[2], "b2": student[3]}
        history.append(Epoch(student[0], student[1], means.result(), memory))
    return history
