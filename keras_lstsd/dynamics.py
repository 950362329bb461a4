"""What the model's own past tells about the training samples, and about their labels."""

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lstsd import checkpoints
from keras_lstsd.self_distillation import SelfDistillation


def suspicious_labels(model: SelfDistillation, y: Any) -> np.ndarray:
    """Training samples in the order in which the model's own past doubts their label.

    The doubt about sample i is `1 - c_i`, with c_i what `label_confidence` gives. Samples that were
    never drawn come last.

    Args:
        model: a trained method with tables of samples (`LSTSD`, `TemporalEnsembling`).
        y: the labels it was trained with, int `[samples]` or one-hot `[samples, classes]`, in the
            order of the sample indices.

    Returns:
        int64 `[samples]`: sample indices, the most suspicious first.

    Raises:
        ValueError: for a model without such tables, and for labels that do not fit them.

    Example:
        >>> model.fit(x_train, y_train, epochs=164)
        >>> worst = keras_lstsd.suspicious_labels(model, y_train)[:50]
        >>> x_train[worst], y_train[worst]     # look at these

    Differences from the literature: none of it is needed for this but the tables that guide the
    training; a ranking by the mean over all epochs (`TrainingDynamics`) is the usual one.
    """
    return ranked(label_confidence(model, y))


def beliefs(model: SelfDistillation) -> np.ndarray:
    """What the tables of a trained model believe of each sample.

    `b_i = 1/M sum_m q_m(x_i)` over the M tables that have a row for sample i: for LSTSD the last
    epoch, the one before, and the last of the previous mini-generation.

    Args:
        model: a trained method with tables of samples.

    Returns:
        float32 `[samples, classes]`; NaN for a sample that was never drawn.

    Raises:
        ValueError: for a model without such tables.

    Example:
        >>> keras_lstsd.dynamics.beliefs(model).argmax(-1)     # [7, 2, ...]
    """
    _check_tables(model)
    total = np.zeros((model.num_samples, model.num_classes), "float32")
    count = np.zeros((model.num_samples, 1), "float32")
    for table in model.sample_tables.values():
        log_probs, known = table.numpy()
        total += np.where(known[:, None], np.exp(log_probs), 0)
        count += known[:, None]
    with np.errstate(invalid="ignore"):
        return total / count


def label_confidence(model: SelfDistillation, y: Any) -> np.ndarray:
    """What the tables of a trained model believe of the given labels: `b_i(y_i)` of `beliefs`.

    Args:
        model: a trained method with tables of samples.
        y: labels as for `suspicious_labels`.

    Returns:
        float32 `[samples]` in [0, 1]; NaN for a sample that was never drawn.

    Raises:
        ValueError: for a model without such tables, and for labels that do not fit them.

    Example:
        >>> keras_lstsd.dynamics.label_confidence(model, y_train)     # [0.98, 0.03, ...]
    """
    believed = beliefs(model)
    labels = _labels(y, *believed.shape)
    return believed[np.arange(len(labels)), labels]


def disagreement(model: SelfDistillation) -> np.ndarray:
    """How far the short- and the long-term teacher of each sample are apart.

    `d_i = 1/2 sum_c |q_short(c | x_i) - q_long(c | x_i)|`, the total variation distance: 0 where
    the model has not changed its mind since the previous mini-generation, 1 where wholly.

    Args:
        model: a trained `LSTSD`.

    Returns:
        float32 `[samples]` in [0, 1]; NaN where a sample lacks one of the two.

    Raises:
        ValueError: for a model without these two tables.

    Example:
        >>> keras_lstsd.dynamics.disagreement(model)     # [0.01, 0.74, ...]
    """
    tables = getattr(model, "sample_tables", {})
    if not {"short_term", "long_term"} <= tables.keys():
        raise ValueError(
            "Two teachers of each sample can disagree. "
            f"Received: {type(model).__name__} with the tables {list(tables)}. Expected: a "
            "`keras_lstsd.LSTSD`."
        )
    (short, known_short), (long, known_long) = (
        tables[name].numpy() for name in ("short_term", "long_term")
    )
    distance = np.abs(np.exp(short) - np.exp(long)).sum(-1) / 2
    return np.where(known_short & known_long, distance, np.nan).astype("float32")


class TrainingDynamics(keras.callbacks.Callback):
    """Follows what the model thinks of each training sample through the epochs.

    With `p_e(y_i)` the probability that epoch e's forward pass on sample i gave to its label, over
    the E epochs since the sample was first drawn:

    - `confidence_i = 1/E sum_e p_e(y_i)`
    - `variability_i = sqrt(1/E sum_e (p_e(y_i) - confidence_i)^2)`
    - `forgotten_i`: epochs in which the likeliest class was not the label, and had been in the
      epoch before.

    Samples of low confidence have a wrong label, often; those of high variability are ambiguous.
    It reads the table that the training writes anyway, once an epoch, and keeps four numbers a
    sample. An epoch that skipped a sample counts its latest row again, where the method keeps it.

    Plain training is followed with `LSTSD(student, num_samples, long_weight=0, short_weight=0)`,
    which is that, bit for bit, with a table.

    Args:
        y: the training labels, int `[samples]` or one-hot `[samples, classes]`, in the order of
            the sample indices.
        path: a file (.npz) to keep the numbers in. A training that is resumed goes on with it, as
            Keras's `BackupAndRestore` does with the weights. None keeps them in memory.

    Raises:
        ValueError: for a model without tables of samples, for labels that do not fit it, and for
            a file of other labels.

    Example:
        >>> dynamics = keras_lstsd.TrainingDynamics(y_train)
        >>> model.fit(x_train, y_train, epochs=164, callbacks=[dynamics])
        >>> dynamics.suspicious_labels()[:50]
        >>> dynamics.save("dynamics.csv")

    Source: confidence and variability, Swayamdipta et al. 2020 ("Dataset Cartography");
    forgetting, Toneva et al. 2019.

    Differences from the papers: both evaluate the model after each epoch; here it is the forward
    pass that trained on the sample, augmentation and dropout included, which costs nothing.
    """

    def __init__(self, y: Any, path: str | Path | None = None):
        super().__init__()
        self.labels = _labels(y)
        self.path = None if path is None else Path(path)
        self._forget()

    def _forget(self) -> None:
        size = len(self.labels)
        self.epoch = -1
        self._epochs = np.zeros(size, "int32")
        self._sum, self._squares = np.zeros(size), np.zeros(size)
        self._forgotten, self._correct = np.zeros(size, "int32"), np.zeros(size, "bool")

    def set_model(self, model):
        super().set_model(model)
        _check_tables(model)

    def on_train_begin(self, logs=None):
        _labels(self.labels, self.model.num_samples, self.model.num_classes)
        if self.path is not None and self.path.exists():
            self._load()
        self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        # By now a backup is restored, and the model's own count right.
        if not self._begun and self.epoch > self.model.epoch:
            self._forget()  # It was of a training that came further, hence of another one.
        self._begun = True

    def on_epoch_end(self, epoch, logs=None):
        if self.model.epoch <= self.epoch:
            return  # An epoch done again, as it ended before its backup was written.
        log_probs, known = self.model.sample_tables["pending"].numpy()
        given = np.where(known, _given(log_probs, self.labels), 0.0)
        correct = known & (log_probs.argmax(-1) == self.labels)
        self.epoch = self.model.epoch
        self._epochs += known
        self._sum += given
        self._squares += np.square(given)
        self._forgotten += known & self._correct & ~correct
        self._correct = np.where(known, correct, self._correct)
        if self.path is not None:
            self._keep()

    _KEPT = ("labels", "epoch", "_epochs", "_sum", "_squares", "_forgotten", "_correct")

    def _keep(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with checkpoints.replacing(self.path) as part, part.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in self._KEPT})

    def _load(self) -> None:
        with np.load(self.path) as kept:
            if not np.array_equal(kept["labels"], self.labels):
                raise ValueError(
                    f"{self.path} was kept with other labels. "
                    f"Received: {len(self.labels)} labels that differ from its "
                    f"{len(kept['labels'])}. Expected: the same ones; take another `path`, or "
                    "remove the file."
                )
            for name in self._KEPT[1:]:
                setattr(self, name, kept[name])
        self.epoch = int(self.epoch)

    @property
    def confidence(self) -> np.ndarray:
        """Mean probability of the label, float32 `[samples]`; NaN for a sample never drawn."""
        with np.errstate(invalid="ignore"):
            return (self._sum / self._epochs).astype("float32")

    @property
    def variability(self) -> np.ndarray:
        """Standard deviation of that probability over the epochs, float32 `[samples]`."""
        with np.errstate(invalid="ignore"):
            variance = self._squares / self._epochs - np.square(self._sum / self._epochs)
        return np.sqrt(np.maximum(variance, 0)).astype("float32")

    @property
    def forgotten(self) -> np.ndarray:
        """How often the model unlearned the label, int32 `[samples]`."""
        return self._forgotten

    def suspicious_labels(self) -> np.ndarray:
        """Sample indices by confidence in the label, the lowest first."""
        return ranked(self.confidence)

    def columns(self) -> dict[str, np.ndarray]:
        """The numbers of each sample, by name, for `pandas.DataFrame(dynamics.columns())`.

        Beside those of the class: `believed_class`, the likeliest class of `beliefs`, and `belief`,
        its probability; for LSTSD, `disagreement` of its teachers.
        """
        believed = beliefs(self.model)
        columns = {
            "sample_index": np.arange(len(self.labels)),
            "label": self.labels,
            "confidence": self.confidence,
            "variability": self.variability,
            "forgotten": self.forgotten,
            "epochs": self._epochs,
            "believed_class": believed.argmax(-1),
            "belief": believed.max(-1),
        }
        if {"short_term", "long_term"} <= getattr(self.model, "sample_tables", {}).keys():
            columns["disagreement"] = disagreement(self.model)
        return columns

    def save(self, path: str | Path) -> None:
        """Writes `columns()` as a table: CSV, or Parquet where the name ends in .parquet.

        Raises:
            ValueError: for a name that ends otherwise.
            ImportError: for Parquet without pyarrow.
        """
        path, columns = Path(path), self.columns()
        if path.suffix == ".csv":
            with checkpoints.replacing(path) as part, part.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(
                    zip(*(column.tolist() for column in columns.values()), strict=True)
                )
        elif path.suffix == ".parquet":
            try:
                import pyarrow
                import pyarrow.parquet
            except ImportError as error:
                raise ImportError(
                    "Parquet files are written by pyarrow. Expected: "
                    '`pip install "keras-lstsd[report]"`, or a path that ends in .csv.'
                ) from error
            with checkpoints.replacing(path) as part:
                pyarrow.parquet.write_table(pyarrow.table(columns), part)
        else:
            raise ValueError(
                f"The name tells the kind of table. Received: {str(path)!r}. Expected: a name that "
                "ends in .csv or .parquet."
            )


def ranked(confidence: np.ndarray) -> np.ndarray:
    """Sample indices by confidence, the lowest first; NaN, of samples never drawn, comes last."""
    return np.argsort(np.where(np.isnan(confidence), np.inf, confidence), kind="stable")


def _given(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities of the given labels."""
    return np.exp(log_probs[np.arange(len(labels)), labels])


def _labels(y: Any, num_samples: int | None = None, num_classes: int | None = None) -> np.ndarray:
    """Labels as int64 `[samples]`; refuses what cannot be those of so many samples and classes."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        labels = y.argmax(-1)
    else:
        labels = y.reshape(-1) if y.ndim in (1, 2) else y
        if labels.ndim != 1 or not np.array_equal(labels, np.round(labels)):
            raise ValueError(
                "Each sample has a label. "
                f"Received: an array of shape {y.shape}, dtype {y.dtype}. Expected: classes as "
                "integers [samples], or one-hot [samples, classes]."
            )
    labels = labels.astype("int64")
    if num_samples is not None and (
        len(labels) != num_samples or labels.min() < 0 or labels.max() >= num_classes
    ):
        raise ValueError(
            "The labels must be those that the model was trained with. "
            f"Received: {len(labels)} labels from {labels.min()} to {labels.max()}. Expected: "
            f"{num_samples}, in the order of the sample indices, from 0 to {num_classes - 1}."
        )
    return labels


def _check_tables(model: Any) -> None:
    if "pending" not in getattr(model, "sample_tables", {}):
        raise ValueError(
            "Only a table of samples remembers what was thought of each. "
            f"Received: {type(model).__name__}, which has none. Expected: `keras_lstsd.LSTSD` or "
            "`keras_lstsd.TemporalEnsembling`; for plain training `keras_lstsd.LSTSD(student, "
            "num_samples, long_weight=0, short_weight=0)`."
        )
