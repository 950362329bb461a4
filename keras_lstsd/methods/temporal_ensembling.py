"""Temporal Ensembling (Laine and Aila, 2016)."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_distillation, check_divergence, check_momentum, count
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import SMALLEST, kl_of_softened, log_softmax, squared_error
from keras_lstsd.schedules import ramp_up
from keras_lstsd.step import Guidance, Step
from keras_lstsd.tables import SampleTable, written


class AverageTable(SampleTable):
    """A `SampleTable` of moving averages, which counts the updates of each row."""

    def build(self, input_shape: tuple[int, int]) -> None:
        super().build(input_shape)
        self.updates = self.add_weight(
            shape=self.rows.shape[:1],
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="updates",
        )

    def share(self, step: Step, momentum: float) -> Any:
        """`1 - a^k` of the samples `[batch, 1]`: `Z = (1 - a^k) q` for the stored q."""
        updates = ops.take(self.updates, ops.clip(step.sample_index, 0, self.num_samples))
        share = 1 - ops.power(momentum, ops.cast(updates, "float32"))[:, None]
        return share if step.mixing is None else ops.matmul(step.mixing, share)

    def average(self, latest: SampleTable, momentum: float) -> None:
        """`Z <- a Z + (1 - a) p` for the rows that `latest` knows.

        The table stores `q = Z / (1 - a^k)`. A softmax of ln Z normalizes, which divides by
        `1 - a^k`.
        """
        averages = [self._averaged(latest, momentum, rows) for rows in self.slices()]
        for part, new in zip(self.parts, zip(*averages, strict=True), strict=True):
            part.assign(new[0] if len(new) == 1 else ops.concatenate(new))
        drawn = written(latest.rows[:, 0])
        self.updates.assign_add(ops.cast(drawn, "int32"))

    def _averaged(self, latest: SampleTable, momentum: float, rows: slice) -> list[Any]:
        """The parts of some rows after the update."""
        own, new = ([part[rows] for part in table.parts] for table in (self, latest))
        drawn = written(new[0][:, :1])
        before = ops.cast(self.updates[rows], "float32")[:, None]
        average, p = (
            ops.exp(log_softmax(table.decoded(*parts)[0], 1 / self.temperature))
            for table, parts in ((self, own), (latest, new))
        )
        z = momentum * (1 - momentum**before) * average + (1 - momentum) * p
        softened = log_softmax(ops.log(ops.maximum(z, SMALLEST)), self.temperature)
        # With `top_k` the label's class is the last one of a row of `latest`.
        labels = None if self.top_k is None else new[1][:, -1]
        return [
            ops.where(drawn, ops.cast(after, old.dtype), old)
            for after, old in zip(self.encoded(softened, labels), own, strict=True)
        ]


@keras.saving.register_keras_serializable("keras_lstsd")
class TemporalEnsembling(Distillation):
    """Each sample is taught by the moving average of its own predictions over the epochs.

    At every epoch boundary, for the samples drawn in the epoch, with p_i the probabilities of the
    forward pass that trained on sample i: `Z_i <- a Z_i + (1 - a) p_i`. The teacher is the
    bias-corrected `q_i = Z_i / (1 - a^k)`, k = updates of that row. From epoch 1 on:

    `loss = compiled + weight * KL[p || q]`, both at temperature T,

    or the mean squared difference of the softened probabilities in place of the KL.

    Logs: `distillation_loss` (weighted), `teacher_coverage`.

    Args:
        student: a Keras classifier; see `Distillation`.
        num_samples: N, size of the training set. None: `fit` counts the samples of arrays and of
            data sets that `keras_lstsd.data.with_sample_index` numbered.
        momentum: a in [0, 1). 0.6 in both papers.
        weight: weight of the teacher, at least 0.
        temperature: T > 0, for both sides.
        divergence: `"kl"`, or `"mse"` as in Laine and Aila.
        kl: `"reverse"` (KL[student || teacher]) or `"forward"`.
        ramp: R epochs over which the weight grows; see `schedules.ramp_up`. 0 for a constant
            weight, 80 in Laine and Aila.
        table_dtype: `"float32"` or `"float16"`, of rows of all classes.
        top_k: how many of the largest probabilities of a row are stored; None for all. For many
            classes; see `SampleTable`.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for a momentum outside [0, 1), a negative weight, a temperature that is not
            positive, an unknown `divergence`, `kl` or `table_dtype`.

    Example:
        >>> model = keras_lstsd.TemporalEnsembling(student)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

        With labels of some samples only, -1 in place of the others:

        >>> model = keras_lstsd.TemporalEnsembling(
        ...     student, divergence="mse", weight=30.0, temperature=1.0, ramp=80
        ... )
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> model.fit(x_train, np.where(np.arange(len(y_train)) < 100, y_train, -1))

    Source: Laine and Aila 2016, Algorithm 2; Jiang et al. 2020, "Baselines".

    Differences from the papers: Laine and Aila use a squared error with a ramp-up over 80 epochs,
    and a weight of 30 times the share of labelled samples. The default is a KL divergence, as
    Jiang et al. compare it. Their weight came from a grid search that is not printed. 4.0 is the
    weight of LSTSD's short-term teacher, which is the most similar.
    """

    needs_sample_index = True
    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        num_samples: int | None = None,
        momentum: float = 0.6,
        weight: float = 4.0,
        temperature: float = 2.0,
        divergence: str = "kl",
        kl: str = "reverse",
        ramp: int = 0,
        table_dtype: str = "float32",
        top_k: int | None = None,
        **options: Any,
    ):
        super().__init__(student, num_samples=num_samples, **options)
        check_momentum(momentum)
        check_divergence(divergence)
        check_distillation(temperature, kl, weight=weight)
        self.divergence = divergence
        self.momentum = momentum
        self.weight = weight
        self.temperature = temperature
        self.kl = kl
        self.ramp = count("ramp", ramp, at_least=0)
        self.table_dtype = table_dtype
        self.top_k = top_k
        self.ensemble = AverageTable(table_dtype, temperature, top_k, "ensemble")
        self.pending = SampleTable(table_dtype, temperature, top_k, "pending")

    def guidance(self, step: Step) -> Guidance | None:
        """weight KL[p || q], q the bias-corrected average."""
        if self.weight == 0:
            return None
        teacher, known = step.read(self.ensemble)
        if self.divergence == "kl":
            loss = kl_of_softened(step.logits, teacher, self.temperature, self.kl, known)
        else:
            teacher = ops.where(known, teacher, 0.0)
            loss = squared_error(step.logits, teacher, self.temperature)
            loss = ops.where(known[:, 0], loss, 0.0)
        weight = self.weight * ramp_up(self._epoch, self.ramp)
        return Guidance(weight * loss, logs={"teacher_coverage": known[:, 0]})

    def record(self, step: Step, guidance: Guidance | None) -> None:
        step.write(self.pending, log_softmax(step.logits, self.temperature))

    def on_epoch_start(self, epoch: int) -> None:
        if epoch > 0:
            self.ensemble.average(self.pending, self.momentum)
            self.pending.clear()
