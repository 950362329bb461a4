"""Rankings of training samples and their labels: arrays in, arrays out."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    # The models import the callbacks, which import this module.
    from keras_lstsd.distillation import Distillation


def suspicious_labels(model: "Distillation", y: Any) -> np.ndarray:
    """Training samples, those whose label the model doubts most first.

    The doubt about sample i is `1 - c_i`, with c_i from `label_confidence`. Samples that were
    never drawn, and those without a label, come last.

    Args:
        model: a trained method with tables of samples (`LSTSD`, `TemporalEnsembling`).
        y: the labels of the training, int `[samples]` or one-hot `[samples, classes]`, in the
            order of the sample indices; `[samples, ...]` for labels of tokens, pixels or several
            labels.

    Returns:
        int64 `[samples]`: sample indices, the most suspicious first. Where a sample has several
        positions: int64 `[samples * positions, axes]`, the indices of each in y.

    Raises:
        ValueError: for a model without such tables, and for labels that do not fit them.

    Example:
        >>> model.fit(x_train, y_train, epochs=164)
        >>> worst = keras_lstsd.suspicious_labels(model, y_train)[:50]
        >>> x_train[worst], y_train[worst]     # look at these

    Differences from the literature: it uses only the tables that guide the training. The usual
    ranking is the mean over all epochs (`TrainingDynamics`).
    """
    return ranked(label_confidence(model, y))


def beliefs(model: "Distillation") -> np.ndarray:
    """The mean prediction in the tables of a trained model for each sample.

    `b_i = 1/M sum_m q_m(x_i)` over the M tables that have a row for sample i. For LSTSD these are
    the last epoch, the one before, and the last one of the previous mini-generation.

    Args:
        model: a trained method with tables of samples.

    Returns:
        float32 `[samples, ..., classes]`; NaN for a sample that was never drawn.

    Raises:
        ValueError: for a model without such tables.

    Example:
        >>> keras_lstsd.label_quality.beliefs(model).argmax(-1)     # [7, 2, ...]
    """
    check_tables(model)
    total = np.zeros((model.num_rows, model.num_classes), "float32")
    count = np.zeros((model.num_rows, 1), "float32")
    for table in model.sample_tables.values():
        log_probs, known = table.numpy()
        total += np.where(known[:, None], np.exp(log_probs), 0)
        count += known[:, None]
    with np.errstate(invalid="ignore"):
        return _by_position(model, total / count)


def label_confidence(model: "Distillation", y: Any) -> np.ndarray:
    """The probability of the given labels in the tables of a model: `b_i(y_i)` of `beliefs`.

    Args:
        model: a trained method with tables of samples.
        y: labels as for `suspicious_labels`.

    Returns:
        float32 `[samples]` (`[samples, ...]`) in [0, 1]; NaN for a sample that was never drawn or
        has no label.

    Raises:
        ValueError: for a model without such tables, and for labels that do not fit them.

    Example:
        >>> keras_lstsd.label_quality.label_confidence(model, y_train)     # [0.98, 0.03, ...]
    """
    return _by_position(model, of_labels(*labelled_beliefs(model, y)))


def labelled_beliefs(model: "Distillation", y: Any) -> tuple[np.ndarray, np.ndarray]:
    """`beliefs`, `[rows, classes]`, and labels, int64 `[rows]`, with a row for each position."""
    believed = beliefs(model).reshape(model.num_rows, model.num_classes)
    if model.positions.axes:
        y = np.asarray(y)
        one_hot = y.shape[1:] == (*model.positions.axes, model.student_units)
        y = y.reshape(-1, y.shape[-1]) if one_hot else y.reshape(-1)
    return believed, class_labels(y, model.num_rows, model.num_classes)


def disagreement(model: "Distillation") -> np.ndarray:
    """The distance between the short- and the long-term teacher of each sample.

    `d_i = 1/2 sum_c |q_short(c | x_i) - q_long(c | x_i)|`, the total variation distance. It is 0
    for equal predictions and 1 for predictions without a common class.

    Args:
        model: a trained `LSTSD`.

    Returns:
        float32 `[samples]` (`[samples, ...]`) in [0, 1]; NaN where a sample lacks one of the two.

    Raises:
        ValueError: for a model without these two tables.

    Example:
        >>> keras_lstsd.label_quality.disagreement(model)     # [0.01, 0.74, ...]
    """
    tables = getattr(model, "sample_tables", {})
    if not {"short_term", "long_term"} <= tables.keys():
        raise ValueError(
            "Only a model with two teachers per sample has a disagreement. "
            f"Received: {type(model).__name__} with the tables {list(tables)}. Expected: a "
            "`keras_lstsd.LSTSD`."
        )
    (short, known_short), (long, known_long) = (
        tables[name].numpy() for name in ("short_term", "long_term")
    )
    distance = np.abs(np.exp(short) - np.exp(long)).sum(-1) / 2
    distance = np.where(known_short & known_long, distance, np.nan).astype("float32")
    return _by_position(model, distance)


def _by_position(model: Any, rows: np.ndarray) -> np.ndarray:
    """Values of the rows of tables as `[samples, ...]`."""
    return rows.reshape(model.num_samples, *model.positions.axes, *rows.shape[1:])


def ranked(confidence: np.ndarray) -> np.ndarray:
    """Indices by confidence, the lowest first; NaN comes last.

    int64 `[samples]` for values `[samples]`; otherwise `[values, axes]`.
    """
    order = np.argsort(np.where(np.isnan(confidence), np.inf, confidence).ravel(), kind="stable")
    if confidence.ndim == 1:
        return order
    return np.stack(np.unravel_index(order, confidence.shape), axis=-1)


def of_labels(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The value of each sample's label, of `[samples, classes]`; NaN without a label."""
    found = values[np.arange(len(labels)), np.maximum(labels, 0)]
    return np.where(labels >= 0, found, np.nan).astype(values.dtype)


def margins(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The lead of each label over the best other class.

    `m_i = ln p(y_i) - max_(c != y_i) ln p(c)`, which is the difference of the logits. It is
    negative where another class is more probable.

    Args:
        log_probs: log-probabilities or logits, float `[samples, classes]`, two classes at least.
        labels: classes, int `[samples]`, -1 for a missing label.

    Returns:
        `[samples]` of the dtype of `log_probs`; NaN without a label.

    Example:
        >>> logits = np.array([[2.0, 0.5, -1.0], [2.0, 0.5, -1.0]])
        >>> keras_lstsd.label_quality.margins(logits, np.array([0, 1]))     # [1.5, -1.5]

    Source: Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin
    Ranking", Eq. 1.
    """
    others = best_others(log_probs, labels)
    return of_labels(log_probs, labels) - of_labels(log_probs, others)


def best_others(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class of the largest value that is not the label, int64 `[samples]`.

    Args:
        values: probabilities or logits, float `[samples, classes]`.
        labels: classes, int `[samples]`, -1 for a missing label.

    Example:
        >>> probabilities = np.array([[0.7, 0.2, 0.1]] * 2)
        >>> keras_lstsd.label_quality.best_others(probabilities, np.array([0, 2]))     # [1, 0]
    """
    others = np.array(values)
    others[np.arange(len(labels)), labels] = np.where(labels >= 0, -np.inf, others[:, -1])
    return others.argmax(-1)


def known_mean(values: Any) -> np.ndarray:
    """The mean over the first axis of what is not NaN, float64; NaN where nothing is known."""
    values = np.asarray(values, "float64")
    with np.errstate(invalid="ignore"):
        return np.nansum(values, 0) / np.isfinite(values).sum(0)


def class_labels(
    y: Any, num_samples: int | None = None, num_classes: int | None = None
) -> np.ndarray:
    """Labels as classes, int64 `[samples]`; -1 for a missing one.

    Soft labels have the class of their largest share; of one unit (between 0 and 1) the nearer
    one. -1, NaN and an all-zero row are missing labels.

    Args:
        y: int `[samples]`, one-hot or soft `[samples, classes]`, or one unit `[samples, 1]`.
        num_samples: how many there must be.
        num_classes: how many classes there are.

    Raises:
        ValueError: for strings, multi-hot rows, and labels that do not fit the sizes.

    Example:
        >>> keras_lstsd.label_quality.class_labels([[0.9, 0.1], [0.0, 0.0]])    # [0, -1]
    """
    y = np.asarray(y)
    kind = None
    if y.dtype.kind not in "biuf":
        kind = "strings or objects"
    elif y.ndim not in (1, 2):
        kind = "labels of another shape"
    if kind is None and y.ndim == 2 and y.shape[1] > 1:
        shares = np.nan_to_num(y.astype("float64"))
        if (shares.sum(-1) > 1.01).any():
            kind = "multi-hot rows (several labels of one sample)"
        labels = np.where(shares.max(-1) > 0, shares.argmax(-1), -1)
    elif kind is None:
        values = y.reshape(-1).astype("float64")
        values = np.where(np.isfinite(values), values, -1)
        whole = values == np.round(values)
        if not (whole | ((values > 0) & (values < 1))).all():
            kind = "fractions outside [0, 1]"
        labels = np.floor(values + 0.5).astype("int64")
    if kind is not None:
        raise ValueError(
            f"Labels must be classes. Received: {kind}: shape {y.shape}, dtype {y.dtype}. "
            "Expected: integers [samples], or one-hot [samples, classes]; for strings write "
            "`classes, y = np.unique(y, return_inverse=True)`."
        )
    labels = labels.astype("int64")
    if num_samples is not None and (
        len(labels) != num_samples or labels.min() < -1 or labels.max() >= num_classes
    ):
        raise ValueError(
            "The labels do not fit the trained model. "
            f"Received: {len(labels)} labels from {labels.min()} to {labels.max()}. Expected: "
            f"{num_samples}, in the order of the sample indices, from 0 to {num_classes - 1}, or "
            "-1 for a missing label."
        )
    return labels


def check_shape(model: Any, shape: tuple[int, ...]) -> None:
    """Rejects labels per sample where a sample has several positions, and the reverse.

    Raises:
        ValueError: for labels of another shape than the training's.
    """
    if model.positions.axes != shape[1:]:
        raise ValueError(
            "The labels do not fit the student's outputs. "
            f"Received: labels of shape {shape} for a student with classes at "
            f"{model.positions.axes or 'one'} positions. Expected: one label per position, as "
            "`TrainingDynamics(y, per_position=True)` with y of shape [samples, ...], or one per "
            "sample as `TrainingDynamics(y)`."
        )


def check_tables(model: Any) -> None:
    """Rejects a model that stores no predictions per sample.

    Raises:
        ValueError: for a method without such a table, and for a model that was never trained.
    """
    has_table = hasattr(model, "pending")
    if not has_table or "pending" not in model.sample_tables:
        received = (
            f"{type(model).__name__}, which has {'not been trained' if has_table else 'none'}"
        )
        raise ValueError(
            "The model has no table of predictions per sample. "
            f"Received: {received}. Expected: a trained `keras_lstsd.LSTSD` or "
            "`keras_lstsd.TemporalEnsembling`; for plain training `keras_lstsd.LSTSD(student, "
            "long_weight=0, short_weight=0)`."
        )
