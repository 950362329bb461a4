"""Callbacks: the rotation of teachers, and the training dynamics of each sample."""

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lstsd import label_quality, saving


class RotateTeachers(keras.callbacks.Callback):
    """Rotates the teachers of a `Distillation` model at epoch boundaries.

    At the start of an epoch it calls `model.start_epoch()`, which makes the rows recorded in the
    last epoch (and at its boundaries the last mini-generation) the teacher of the next one. At the
    end it calls `model.end_epoch(logs)`, which adds the method's logs and reports bad input. `fit`
    adds it when it is not among the callbacks. In a `keras.callbacks.CallbackList` of your own
    place it first, so that the others see what it logs.

    Raises:
        ValueError: for a model without teachers.

    Example:
        >>> model.fit(x_train, y_train, epochs=12, callbacks=[keras_lstsd.RotateTeachers()])

    Source: Jiang et al. 2020, Algorithm 1, lines 1-2 and 14-16.
    """

    def set_model(self, model):
        super().set_model(model)
        if not hasattr(model, "start_epoch"):
            raise ValueError(
                "`RotateTeachers` needs a model that has teachers. "
                f"Received: {type(model).__name__}. Expected: a method of keras_lstsd around it, "
                "for example `keras_lstsd.LSTSD(model)`."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.model.start_epoch(epoch, (self.params or {}).get("epochs"))

    def on_epoch_end(self, epoch, logs=None):
        self.model.end_epoch({} if logs is None else logs)


class TrainingDynamics(keras.callbacks.Callback):
    """Records the probability of each training sample's label in every epoch.

    With `p_e(y_i)` the probability that the forward pass of epoch e on sample i gave to its label,
    over the E epochs since the sample was first drawn:

    - `confidence_i = 1/E sum_e p_e(y_i)`
    - `margin_i = 1/E sum_e (ln p_e(y_i) - max_(c != y_i) ln p_e(c))`
    - `variability_i = sqrt(1/E sum_e (p_e(y_i) - confidence_i)^2)`
    - `forgotten_i`: epochs in which the most probable class was not the label, and had been in the
      epoch before.

    Samples of low confidence or margin often have a wrong label; those of high variability are
    ambiguous. It reads the table that the training writes anyway, once an epoch, and stores 9 bytes
    per sample and epoch. An epoch that skipped a sample counts its latest row again, where the
    method keeps it. When weights are rolled back (a restored backup, `EarlyStopping` with
    `restore_best_weights`) and trained further, the epochs behind that point are dropped.

    To follow plain training use `LSTSD(student, long_weight=0, short_weight=0)`: it trains the
    same weights, bit for bit, with a table.

    Args:
        y: the training labels, int `[samples]` or one-hot `[samples, classes]`, in the order of
            the sample indices. A sample with the label -1 has none, and gets NaN.
        path: a file (.npz) to store the record in. A resumed training continues with it, as
            Keras's `BackupAndRestore` does with the weights. None keeps it in memory.
        per_position: whether y has a label for each token, pixel or label of a sample, int
            `[samples, ...]`. The values then have this shape, too.

    Raises:
        ValueError: for a model without tables of samples, for labels that do not fit it, and for
            a file of other labels.

    Example:
        >>> dynamics = keras_lstsd.TrainingDynamics(y_train)
        >>> model.fit(x_train, y_train, epochs=164, callbacks=[dynamics])
        >>> dynamics.suspicious_labels()[:50]
        >>> dynamics.save("dynamics.csv")

    Source: confidence and variability, Swayamdipta et al. 2020 ("Dataset Cartography"); margin,
    Pleiss et al. 2020 ("AUM"); forgetting, Toneva et al. 2019.

    Differences from the papers: the first and the last evaluate the model after each epoch. Here
    it is the forward pass that trained on the sample, augmentation and dropout included, which
    costs nothing. The paper of the margin ends the training early; here all epochs count.
    """

    def __init__(self, y: Any, path: str | Path | None = None, per_position: bool = False):
        super().__init__()
        y = np.asarray(y)
        self.labels = label_quality.class_labels(y.reshape(-1) if per_position else y)
        self.shape = y.shape if per_position else self.labels.shape
        self.path = None if path is None else Path(path)
        self._epochs: list[int] = []
        # Per epoch, [samples]: the label's probability and margin, NaN where unknown, and whether
        # it leads.
        self._given: list[np.ndarray] = []
        self._margins: list[np.ndarray] = []
        self._correct: list[np.ndarray] = []

    def set_model(self, model):
        super().set_model(model)
        if not hasattr(model, "pending"):
            label_quality.check_tables(model)

    def on_train_begin(self, logs=None):
        label_quality.check_shape(self.model, self.shape)
        label_quality.class_labels(self.labels, self.model.num_rows, self.model.num_classes)
        if self.path is not None and self.path.exists():
            self._load()

    def on_epoch_end(self, epoch, logs=None):
        # Epochs behind the model's own count were rolled back, and are done again.
        while self._epochs and self._epochs[-1] >= self.model.epoch:
            for record in (self._epochs, self._given, self._margins, self._correct):
                record.pop()
        log_probs, known = self.model.sample_tables["pending"].numpy()
        given = label_quality.of_labels(np.exp(log_probs), self.labels)
        self._epochs.append(self.model.epoch)
        self._given.append(np.where(known, given, np.nan).astype("float32"))
        margins = label_quality.margins(log_probs, self.labels)
        self._margins.append(np.where(known, margins, np.nan).astype("float32"))
        self._correct.append(known & (log_probs.argmax(-1) == self.labels))
        if self.path is not None:
            self._store()

    def _store(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with saving.replacing(self.path) as part, part.open("wb") as file:
            np.savez(
                file,
                labels=self.labels,
                epochs=self._epochs,
                given=self._given,
                margins=self._margins,
                correct=self._correct,
            )

    def _load(self) -> None:
        with np.load(self.path) as stored:
            if not np.array_equal(stored["labels"], self.labels):
                raise ValueError(
                    f"{self.path} was stored with other labels. "
                    f"Received: {len(self.labels)} labels that differ from its "
                    f"{len(stored['labels'])}. Expected: the same ones; use another `path`, or "
                    "remove the file."
                )
            self._epochs = stored["epochs"].tolist()
            self._given, self._margins, self._correct = (
                list(stored[name]) for name in ("given", "margins", "correct")
            )

    @property
    def epochs(self) -> np.ndarray:
        """Epochs that count for each sample, int64 `[samples]`."""
        return self._epochs_of_rows.reshape(self.shape)

    @property
    def _epochs_of_rows(self) -> np.ndarray:
        return np.isfinite(self._probabilities).sum(0)

    @property
    def _probabilities(self) -> np.ndarray:
        """Of the labels, float64 `[epochs, samples]`; NaN where unknown."""
        return np.asarray(self._given, "float64").reshape(-1, len(self.labels))

    @property
    def confidence(self) -> np.ndarray:
        """Mean probability of the label, float32 `[samples]`; NaN for a sample never drawn."""
        return self._of_samples(self._mean(self._probabilities))

    @property
    def margin(self) -> np.ndarray:
        """Mean lead of the label's logit, float32 `[samples]`; NaN for a sample never drawn."""
        margins = np.asarray(self._margins, "float64").reshape(-1, len(self.labels))
        return self._of_samples(self._mean(margins))

    @property
    def variability(self) -> np.ndarray:
        """Standard deviation of that probability over the epochs, float32 `[samples]`."""
        deviations = self._probabilities - self._mean(self._probabilities)
        return self._of_samples(np.sqrt(self._mean(deviations**2)))

    def _mean(self, values: np.ndarray) -> np.ndarray:
        """The mean of float64 `[epochs, samples]` over the epochs that count."""
        with np.errstate(invalid="ignore"):
            return np.nansum(values, 0) / self._epochs_of_rows

    def _of_samples(self, values: np.ndarray) -> np.ndarray:
        """Values of the rows in the shape of the labels, float32."""
        return values.astype("float32").reshape(self.shape)

    @property
    def forgotten(self) -> np.ndarray:
        """How often the label lost its lead, int32 `[samples]`."""
        lost, led = np.zeros(len(self.labels), "int32"), np.zeros(len(self.labels), bool)
        for given, correct in zip(self._given, self._correct, strict=True):
            known = np.isfinite(given)
            lost += known & led & ~correct
            led = np.where(known, correct, led)
        return lost.reshape(self.shape)

    def suspicious_labels(self, score: str = "confidence") -> np.ndarray:
        """Sample indices by a score of the label, the lowest first; see `label_quality`.

        Args:
            score: `"confidence"` or `"margin"`.

        Raises:
            ValueError: for another score.
        """
        if score not in ("confidence", "margin"):
            raise ValueError(
                f"`score` must be a score of labels. Received: score={score!r}. Expected: "
                "'confidence' or 'margin'."
            )
        return label_quality.ranked(getattr(self, score))

    def columns(self) -> dict[str, np.ndarray]:
        """The values of each sample, by name, for `pandas.DataFrame(dynamics.columns())`.

        With several positions of a sample: of each position, with its number in `position`.

        Beside those of the class: `believed_class`, the most probable class of
        `label_quality.beliefs`, -1 for a sample never drawn, and `belief`, its probability; for
        LSTSD, `disagreement` of its teachers.
        """
        believed = label_quality.beliefs(self.model)
        drawn = np.isfinite(believed).all(-1)
        rows = np.arange(len(self.labels))
        positions = len(rows) // self.shape[0]
        columns = {
            "sample_index": rows // positions,
            "label": self.labels,
            "confidence": self.confidence,
            "margin": self.margin,
            "variability": self.variability,
            "forgotten": self.forgotten,
            "epochs": self.epochs,
            "believed_class": np.where(drawn, believed.argmax(-1), -1),
            "belief": believed.max(-1),
        }
        if positions > 1:
            columns["position"] = rows % positions
        if {"short_term", "long_term"} <= self.model.sample_tables.keys():
            columns["disagreement"] = label_quality.disagreement(self.model)
        return {name: values.reshape(-1) for name, values in columns.items()}

    def save(self, path: str | Path) -> None:
        """Writes `columns()` as a table: CSV, or Parquet where the name ends in .parquet.

        Raises:
            ValueError: for a name with another ending.
            ImportError: for Parquet without pyarrow.
        """
        path, columns = Path(path), self.columns()
        if path.suffix == ".csv":
            with saving.replacing(path) as part, part.open("w", newline="") as file:
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
                    "Parquet files need pyarrow, which is not installed. Expected: "
                    '`pip install "keras-lstsd[report]"`, or a path that ends in .csv.'
                ) from error
            with saving.replacing(path) as part:
                pyarrow.parquet.write_table(pyarrow.table(columns), part)
        else:
            raise ValueError(
                f"The file name has no known ending. Received: {str(path)!r}. Expected: a name "
                "that ends in .csv or .parquet."
            )
