"""What happened to each training sample over the epochs."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lstsd import columns, label_issues, label_quality, saving
from keras_lstsd.label_quality import known_mean


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
    ambiguous. It reads the table that the training writes anyway, once an epoch, and stores 13
    bytes per sample and epoch (more for over 256 classes). An epoch that skipped a sample counts
    its latest row again, where the method keeps it. When weights are rolled back (a restored
    backup, `EarlyStopping` with `restore_best_weights`) and trained further, the epochs behind
    that point are dropped.

    To follow plain training use `LSTSD(student, long_weight=0, short_weight=0)`: it trains the
    same weights, bit for bit, with a table.

    Args:
        y: the training labels, int `[samples]` or one-hot `[samples, classes]`, in the order of
            the sample indices. A sample with the label -1 has none, and gets NaN.
        path: a file (.npz) to store the record in. A resumed training continues with it, as
            Keras's `BackupAndRestore` does with the weights. None keeps it in memory.
        per_position: whether y has a label for each token, pixel or label of a sample, int
            `[samples, ...]`, -1 at padded positions. The values then have this shape, too.

    Raises:
        ValueError: for a model without tables of samples, for labels that do not fit it, and for
            a file of other labels.

    Example:
        >>> dynamics = keras_lstsd.TrainingDynamics(y_train)
        >>> model.fit(x_train, y_train, epochs=164, callbacks=[dynamics])
        >>> issues = dynamics.find_label_issues()
        >>> x_train[issues["is_label_issue"]]     # look at these
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
        # By name, for each epoch [samples], NaN where unknown: the label's probability and margin,
        # and the best other class with its probability.
        self._records: dict[str, list[np.ndarray]] = {
            name: [] for name in ("given", "margin", "other", "other_probability")
        }

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
            for record in (self._epochs, *self._records.values()):
                record.pop()
        self._epochs.append(self.model.epoch)
        log_probs, known = self.model.sample_tables["pending"].numpy()
        labels = np.where(known, self.labels, -1)
        other = label_quality.best_others(log_probs, labels)
        given, rival = (label_quality.of_labels(log_probs, it) for it in (labels, other))
        of_epoch = {
            "given": np.exp(given),
            "margin": given - rival,
            "other": other.astype(np.min_scalar_type(self.model.num_classes - 1)),
            "other_probability": np.exp(rival),
        }
        for name, values in of_epoch.items():
            self._records[name].append(values)
        if self.path is not None:
            self._store()

    def _store(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with saving.replacing(self.path) as part, part.open("wb") as file:
            np.savez(file, labels=self.labels, epochs=self._epochs, **self._records)

    def _load(self) -> None:
        with np.load(self.path) as stored:
            if not np.array_equal(stored["labels"], self.labels):
                raise ValueError(
                    f"{self.path} was stored with other labels. "
                    f"Received: {len(self.labels)} labels that differ from its "
                    f"{len(stored['labels'])}. Expected: the same ones; use another `path`, or "
                    "remove the file."
                )
            if not self._records.keys() <= stored.keys():
                raise ValueError(
                    f"{self.path} was stored by an earlier version. Received: the arrays "
                    f"{sorted(stored)}. Expected: {sorted(self._records)}; remove the file, and "
                    "start the training again."
                )
            self._epochs = stored["epochs"].tolist()
            self._records = {name: list(stored[name]) for name in self._records}

    @property
    def epochs(self) -> np.ndarray:
        """Epochs that count for each sample, int64 `[samples]`."""
        return np.isfinite(self._recorded("given")).sum(0).reshape(self.shape)

    def _recorded(self, name: str) -> np.ndarray:
        """Float64 `[epochs, samples]`; NaN where unknown."""
        return np.asarray(self._records[name], "float64").reshape(-1, len(self.labels))

    @property
    def confidence(self) -> np.ndarray:
        """Mean probability of the label, float32 `[samples]`; NaN for a sample never drawn."""
        return self._of_samples(known_mean(self._recorded("given")))

    @property
    def margin(self) -> np.ndarray:
        """Mean lead of the label's logit, float32 `[samples]`; NaN for a sample never drawn."""
        return self._of_samples(known_mean(self._recorded("margin")))

    @property
    def variability(self) -> np.ndarray:
        """Standard deviation of that probability over the epochs, float32 `[samples]`."""
        given = self._recorded("given")
        return self._of_samples(np.sqrt(known_mean((given - known_mean(given)) ** 2)))

    @property
    def probabilities(self) -> np.ndarray:
        """Mean prediction over the epochs, float32 `[samples, classes]`; NaN where unknown.

        In each epoch, the label and the best other class have their probabilities. The rest of the
        mass is spread evenly over the other classes.
        """
        rows, num_classes = np.arange(len(self.labels)), self.model.num_classes
        sums = np.zeros((len(rows), num_classes))
        records = (self._records[name] for name in ("given", "other", "other_probability"))
        for given, other, of_other in zip(*records, strict=True):
            known = np.isfinite(given)
            given, of_other = (np.where(known, it, 0).astype("float64") for it in (given, of_other))
            rest = np.maximum(1 - given - of_other, 0) / max(num_classes - 2, 1)
            rest = np.where(known, rest, 0)
            sums += rest[:, None]
            sums[rows, self.labels] += given - rest
            sums[rows, other] += of_other - rest
        with np.errstate(invalid="ignore"):
            means = sums / self.epochs.reshape(-1, 1)
        return means.astype("float32").reshape(*self.shape, num_classes)

    def _of_samples(self, values: np.ndarray) -> np.ndarray:
        """Values of the rows in the shape of the labels, float32."""
        return values.astype("float32").reshape(self.shape)

    @property
    def forgotten(self) -> np.ndarray:
        """How often the label lost its lead, int32 `[samples]`."""
        lost, led = np.zeros(len(self.labels), "int32"), np.zeros(len(self.labels), bool)
        for margin in self._records["margin"]:
            lost += led & (margin < 0)
            led = np.where(np.isnan(margin), led, margin >= 0)
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

    def find_label_issues(self) -> dict[str, np.ndarray]:
        """Labels that are probably wrong, and others for them; see `find_label_issues`.

        The margins and predictions are those of all epochs: `margin` and `probabilities`.
        """
        probabilities = self.probabilities.reshape(len(self.labels), -1)
        positions = len(self.labels) // self.shape[0]
        return label_issues.issues_of(
            self.margin.reshape(-1), probabilities, self.labels, positions
        )

    def columns(self) -> dict[str, np.ndarray]:
        """The values of each sample, by name, for `pandas.DataFrame(dynamics.columns())`.

        First those of `find_label_issues`, then those of this class; for LSTSD also the
        `disagreement` of its teachers. With several positions of a sample: of each position.
        """
        names = ["confidence", "margin", "variability", "forgotten", "epochs"]
        values = {name: getattr(self, name) for name in names}
        if {"short_term", "long_term"} <= self.model.sample_tables.keys():
            values["disagreement"] = label_quality.disagreement(self.model)
        flat = {name: column.reshape(-1) for name, column in values.items()}
        return self.find_label_issues() | flat

    def save(self, path: str | Path) -> None:
        """Writes `columns()` as a file, CSV or Parquet; see `keras_lstsd.columns.write`."""
        columns.write(path, self.columns())
