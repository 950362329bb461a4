"""Divergences between two predictions: logits in, one float32 value per sample out."""

from collections.abc import Callable
from typing import Any

from keras import ops

# The finite floor of a log-probability: what float16 tables can hold, far below any real value.
LOG_FLOOR = -6e4
# The smallest normal float32: probabilities are floored there before their logarithm is taken.
SMALLEST = 1.1754944e-38


def log_softmax(logits: Any, temperature: float = 1.0) -> Any:
    """Log-probabilities of softened logits, in float32.

    `log softmax(z / T)`. Log-probabilities are themselves logits: a row `log softmax(z)` that was
    stored can be softened later, since `softmax(log p / T) = softmax(z / T)`.

    Args:
        logits: float tensor `[batch, classes]`, any float dtype.
        temperature: T > 0.

    Returns:
        float32 tensor `[batch, classes]`, at least -6e4 (a class whose logit is minus infinity
        keeps a finite log-probability, so that `0 * log 0` counts as 0).

    Example:
        >>> keras_lstsd.losses.log_softmax([[0.0, 0.0]])   # [[-0.693, -0.693]]
    """
    logits = ops.cast(logits, "float32")
    scaled = logits if temperature == 1 else logits / temperature
    return ops.maximum(ops.log_softmax(scaled, axis=-1), LOG_FLOOR)


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

    There is no factor T^2. Both sides come from log-softmax in float32, so a confidently wrong
    student keeps its true loss and gradient (Keras's `KLDivergence` clips probabilities at 1e-7).

    Args:
        student_logits: `[batch, classes]`, logits or log-probabilities.
        teacher_logits: `[..., batch, classes]`, logits or log-probabilities; axes before the
            student's are of several teachers.
        temperature: T > 0, for both sides.
        direction: `"reverse"` (Jiang et al. 2020, Eq. 1) or `"forward"` (Hinton et al. 2015).
        student_temperature: another T for the student alone; the asymmetric distillation of
            Yang et al. 2019 softens the teacher and leaves the student at 1.
        known: None, or bool that broadcasts to the teacher: 0 where it is False, as of a sample
            without a teacher.

    Returns:
        float32 tensor `[..., batch]`, in nats.

    Raises:
        ValueError: for an unknown direction, for shapes that do not fit.

    Example:
        >>> keras_lstsd.losses.kl_divergence([[2.0, 0.0]], [[0.0, 0.0]])   # [0.328]
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
    """`kl_divergence` where the teacher is softened already, as its rows of a table are.

    Args:
        student_logits: `[batch, classes]`, logits or log-probabilities.
        teacher_log_probs: `[..., batch, classes]`, as `log_softmax(logits, T)` gives them.
        temperature: T > 0, for the student.
        direction: see `kl_divergence`.
        known: see `kl_divergence`.

    Returns:
        float32 tensor `[..., batch]`, in nats.

    Raises:
        ValueError: for an unknown direction, for shapes that do not fit.

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
            "Student and teacher say something of the same samples and classes. "
            f"Received: logits of shapes {shapes[0]} and {shapes[1]}. Expected: one shape; write "
            "`ops.broadcast_to(teacher_logits, ops.shape(student_logits))`."
        )
    if direction not in ("reverse", "forward"):
        raise ValueError(
            "`direction` names the side whose probabilities weigh the KL divergence. "
            f"Received: {direction!r}. Expected: 'reverse' (KL[student || teacher]) or 'forward' "
            "(KL[teacher || student])."
        )
    if known is not None:
        known = ops.convert_to_tensor(known, "bool")
        if len(known.shape) not in (0, len(shapes[1])):
            raise ValueError(
                "`known` tells where there is a teacher. "
                f"Received: shape {tuple(known.shape)} for teachers of shape {shapes[1]}. Expected:"
                " one for all, or as many dimensions; write `known[..., None]` if it is one for "
                "each sample."
            )
        # Who has no teacher is told what it says itself: that costs nothing and moves nothing.
        itself = ops.stop_gradient(log_softmax(student, temperature))
        teacher = ops.where(known, teacher, itself)
    formula = _reverse if direction == "reverse" else _forward
    return ops.custom_gradient(lambda z, log_q: formula(z, log_q, temperature))(student, teacher)


# Values with their gradients, written out: those of the parts take three times as many operations.
# The temperature stands beside `upstream`, which is a constant more often than not.


def _reverse(z: Any, log_q: Any, temperature: float) -> tuple[Any, Callable]:
    """KL[p || q], p = softmax(z / T); by z it is `p (ln p - ln q - KL) / T`."""
    log_p = log_softmax(z, temperature)
    p, difference = ops.exp(log_p), log_p - log_q
    value = ops.sum(p * difference, axis=-1)

    def gradient(upstream: Any) -> tuple[Any, Any]:
        upstream = ops.expand_dims(upstream, -1)
        by_z = upstream / temperature * p * (difference - ops.expand_dims(value, -1))
        return _summed(by_z, z), -upstream * p

    return value, gradient


def _forward(z: Any, log_q: Any, temperature: float) -> tuple[Any, Callable]:
    """KL[q || p], p = softmax(z / T); by z it is `(p - q) / T`."""
    log_p, q = log_softmax(z, temperature), ops.exp(log_q)
    difference = log_q - log_p
    value = ops.sum(q * difference, axis=-1)

    def gradient(upstream: Any) -> tuple[Any, Any]:
        upstream = ops.expand_dims(upstream, -1)
        by_z = upstream / temperature * (ops.exp(log_p) - q)
        return _summed(by_z, z), upstream * q * (difference + 1)

    return value, gradient


def _summed(gradient: Any, tensor: Any) -> Any:
    """A gradient over the leading axes that the tensor was broadcast to."""
    more = len(gradient.shape) - len(tensor.shape)
    return ops.sum(gradient, axis=tuple(range(more))) if more else gradient
