"""Divergences between a student's and a teacher's predictions, in float32.

Functions take logits and return one value per sample.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

# The smallest log-probability: finite in float16 tables, and far below any value of a network.
LOG_FLOOR = -6e4
# The smallest normal float32. Probabilities are at least this before their logarithm is taken.
SMALLEST = 1.1754944e-38


def log_softmax(logits: Any, temperature: float = 1.0) -> Any:
    """Log-probabilities of softened logits, in float32.

    `log_softmax(z, T) = max(log softmax(z / T), -6e4)` over the last axis. Log-probabilities are
    logits too: with `p = softmax(z)`, `softmax(log p / T) = softmax(z / T)`. A stored row
    `log softmax(z)` can therefore be softened later.

    Args:
        logits: tensor `[..., classes]` of any float dtype.
        temperature: T > 0.

    Returns:
        float32 tensor `[..., classes]`, in nats, at least -6e4. A class with the logit minus
        infinity keeps a finite log-probability, so that `0 * log 0` is 0.

    Example:
        >>> keras_lstsd.losses.log_softmax([[0.0, 0.0]])   # [[-0.693, -0.693]]
    """
    logits = ops.cast(logits, "float32")
    scaled = logits if temperature == 1 else logits / temperature
    return ops.maximum(ops.log_softmax(scaled, axis=-1), LOG_FLOOR)


def cross_entropy(student_logits: Any, teacher_log_probs: Any, temperature: float = 1.0) -> Any:
    """Cross-entropy of a teacher that is already softened and a student, per sample.

    `H(q, p) = -sum_c q_c ln p_c` with `p = softmax(student / T)`: the forward KL divergence plus
    the entropy of the teacher, with the same gradient in the student.

    Args:
        student_logits: `[..., classes]`, logits or log-probabilities.
        teacher_log_probs: `[..., classes]`, as `log_softmax(logits, T)` returns them.
        temperature: T > 0, for the student.

    Returns:
        float32 tensor `[...]`, in nats.

    Example:
        >>> teacher = keras_lstsd.losses.log_softmax([[0.0, 0.0]])
        >>> keras_lstsd.losses.cross_entropy([[2.0, 0.0]], teacher)   # [1.127]
    """
    return -ops.sum(ops.exp(teacher_log_probs) * log_softmax(student_logits, temperature), axis=-1)


def squared_error(student_logits: Any, teacher_log_probs: Any, temperature: float = 1.0) -> Any:
    """Mean squared difference of probabilities, per sample.

    `1/C sum_c (p_c - q_c)^2` with `p = softmax(student / T)` and the teacher's `ln q` as given.

    Args:
        student_logits: `[..., classes]`, logits or log-probabilities.
        teacher_log_probs: `[..., classes]`, as `log_softmax(logits, T)` returns them.
        temperature: T > 0, for the student.

    Returns:
        float32 tensor `[...]`, at most 2 / C.

    Example:
        >>> teacher = keras_lstsd.losses.log_softmax([[0.0, 0.0]])
        >>> keras_lstsd.losses.squared_error([[2.0, 0.0]], teacher)   # [0.145]

    Source: Laine and Aila 2016, Algorithm 2; Tarvainen and Valpola 2017.
    """
    p = ops.exp(log_softmax(student_logits, temperature))
    return ops.mean(ops.square(p - ops.exp(teacher_log_probs)), axis=-1)


def kl_divergence(
    student_logits: Any,
    teacher_logits: Any,
    temperature: float = 1.0,
    direction: str = "reverse",
    student_temperature: float | None = None,
    known: Any = None,
) -> Any:
    """Kullback-Leibler divergence between a student and a teacher, per sample.

    With `p = softmax(student / T)` and `q = softmax(teacher / T)`:

    - reverse: `KL[p || q] = sum_c p_c (ln p_c - ln q_c)`
    - forward: `KL[q || p] = sum_c q_c (ln q_c - ln p_c)`

    There is no factor T^2. Both distributions come from a log-softmax in float32. A confidently
    wrong student therefore keeps its exact loss and gradient; Keras's `KLDivergence` clips
    probabilities at 1e-7.

    Args:
        student_logits: `[batch, classes]`, logits or log-probabilities.
        teacher_logits: `[..., batch, classes]`, logits or log-probabilities. Leading axes that
            the student does not have index several teachers.
        temperature: T > 0, for the student and the teacher.
        direction: `"reverse"` (Jiang et al. 2020, Eq. 1) or `"forward"` (Hinton et al. 2015).
        student_temperature: T of the student where it differs. The asymmetric distillation of
            Yang et al. 2019 softens the teacher and keeps the student at 1.
        known: None, or a bool scalar or tensor that broadcasts to the teacher, such as
            `[batch, 1]`. False: no teacher, the divergence is 0.

    Returns:
        float32 tensor `[..., batch]`, in nats.

    Raises:
        ValueError: for an unknown direction, and for shapes that do not match.

    Example:
        >>> keras_lstsd.losses.kl_divergence([[2.0, 0.0]], [[0.0, 0.0]])   # [0.328]

    Source: Jiang et al. 2020 (reverse), Hinton et al. 2015 (forward).

    Differences from the paper: Hinton et al. multiply the divergence by T^2; multiply the result
    by T^2 to do the same.
    """
    teacher = log_softmax(teacher_logits, temperature)
    student_temperature = student_temperature or temperature
    return kl_of_softened(student_logits, teacher, student_temperature, direction, known)


def kl_of_softened(
    student_logits: Any,
    teacher_log_probs: Any,
    temperature: float = 1.0,
    direction: str = "reverse",
    known: Any = None,
) -> Any:
    """`kl_divergence` for a teacher that is already softened, such as rows of a table.

    With `p = softmax(student / T)` and the teacher's `ln q` as given:

    - reverse: `KL[p || q] = sum_c p_c (ln p_c - ln q_c)`
    - forward: `KL[q || p] = sum_c q_c (ln q_c - ln p_c)`

    Args:
        student_logits: `[batch, classes]`, logits or log-probabilities.
        teacher_log_probs: `[..., batch, classes]`, as `log_softmax(logits, T)` returns them.
        temperature: T > 0, for the student.
        direction: `"reverse"` or `"forward"`.
        known: None, or a bool scalar or tensor that broadcasts to the teacher, such as
            `[batch, 1]`. False: no teacher, the divergence is 0.

    Returns:
        float32 tensor `[..., batch]`, in nats.

    Raises:
        ValueError: for an unknown direction, and for shapes that do not match.

    Example:
        >>> teacher = keras_lstsd.losses.log_softmax([[0.0, 0.0]], 2.0)
        >>> keras_lstsd.losses.kl_of_softened([[2.0, 0.0]], teacher, 2.0)   # [0.111]
    """
    student, teacher = (ops.cast(it, "float32") for it in (student_logits, teacher_log_probs))
    shapes = tuple(student.shape), tuple(teacher.shape)
    own = shapes[1][-len(shapes[0]) :]
    if len(own) < len(shapes[0]) or any(
        None not in n and n[0] != n[1] for n in zip(shapes[0], own, strict=True)
    ):
        raise ValueError(
            "Logits of the student and of the teacher must have the same samples and classes. "
            f"Received: logits of shapes {shapes[0]} and {shapes[1]}. Expected: equal shapes; "
            "write `ops.broadcast_to(teacher_logits, ops.shape(student_logits))`."
        )
    if direction not in ("reverse", "forward"):
        raise ValueError(
            "`direction` must be a direction of the divergence. "
            f"Received: direction={direction!r}. Expected: 'reverse' (KL[student || "
            "teacher]) or 'forward' (KL[teacher || student])."
        )
    if known is not None:
        known = ops.convert_to_tensor(known, "bool")
        if len(known.shape) not in (0, len(shapes[1])):
            raise ValueError(
                "`known` must be a scalar, or have as many dimensions as the teacher. "
                f"Received: shape {tuple(known.shape)} for teachers of shape {shapes[1]}. Expected:"
                " for one value per sample write `known[..., None]`."
            )
        # Without a teacher, the target is the student's own prediction: loss and gradient are 0.
        itself = ops.stop_gradient(log_softmax(student, temperature))
        teacher = ops.where(known, teacher, itself)
    formula = _reverse if direction == "reverse" else _forward
    return ops.custom_gradient(lambda z, log_q: formula(z, log_q, temperature))(student, teacher)


# Explicit gradients: automatic differentiation takes three times as many operations.
# `upstream` is usually a constant, so dividing it by the temperature first is cheap.


def _reverse(z: Any, log_q: Any, temperature: float) -> tuple[Any, Callable]:
    """`KL[p || q]` with `p = softmax(z / T)`; its gradient in z is `p (ln p - ln q - KL) / T`."""
    log_p = log_softmax(z, temperature)
    p, difference = ops.exp(log_p), log_p - log_q
    value = ops.sum(p * difference, axis=-1)

    def gradient(upstream: Any) -> tuple[Any, Any]:
        upstream = ops.expand_dims(upstream, -1)
        by_z = upstream / temperature * p * (difference - ops.expand_dims(value, -1))
        return _summed(by_z, z), -upstream * p

    return value, gradient


def _forward(z: Any, log_q: Any, temperature: float) -> tuple[Any, Callable]:
    """`KL[q || p]` with `p = softmax(z / T)`; its gradient in z is `(p - q) / T`."""
    log_p, q = log_softmax(z, temperature), ops.exp(log_q)
    difference = log_q - log_p
    value = ops.sum(q * difference, axis=-1)

    def gradient(upstream: Any) -> tuple[Any, Any]:
        upstream = ops.expand_dims(upstream, -1)
        by_z = upstream / temperature * (ops.exp(log_p) - q)
        return _summed(by_z, z), upstream * q * (difference + 1)

    return value, gradient


def _summed(gradient: Any, tensor: Any) -> Any:
    """A gradient summed over the leading axes to which the tensor was broadcast."""
    more = len(gradient.shape) - len(tensor.shape)
    return ops.sum(gradient, axis=tuple(range(more))) if more else gradient
