"""Temporal Ensembling (Laine and Aila, 2016), as a teacher of labelled samples."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.arguments import check_distillation, check_momentum
from keras_lstsd.losses import SMALLEST, kl_of_softened, log_softmax
from keras_lstsd.self_distillation import Batch, SelfDistillation
from keras_lstsd.tables import SampleTable, written


@keras.saving.register_keras_serializable("keras_lstsd")
class TemporalEnsembling(SelfDistillation):
    """Each sample is taught by the moving average of its own predictions over the epochs.

    At every edge of an epoch, for the samples that the epoch met, with p_i the probabilities of
    the forward pass that trained on sample i: `Z_i <- a Z_i + (1 - a) p_i`. The teacher is the
    bias-corrected `q_i = Z_i / (1 - a^k)`, k = updates of that row. From epoch 1 on:

    `loss = compiled + weight * KL[p || q]`, both at temperature T.

    Logs: `distillation_loss` (weighted), `teacher_coverage`.

    Args:
        student: a Keras classifier; see `SelfDistillation`.
        num_samples: N, size of the training set.
        momentum: a in [0, 1). 0.6 in both papers.
        weight: weight of the teacher, at least 0.
        temperature: T > 0, for both sides.
        kl: `"reverse"` (KL[student || teacher]) or `"forward"`.
        table_dtype: `"float32"` or `"float16"`.
        from_logits: whether the student puts out logits. None finds out from its last layer.
        name: name of the model.

    Raises:
        ValueError: for a momentum outside [0, 1), a negative weight, a temperature that is not
            positive, an unknown `kl` or `table_dtype`.

    Example:
        >>> model = keras_lstsd.TemporalEnsembling(student, num_samples=len(x_train))
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: Laine and Aila 2016, Algorithm 2; Jiang et al. 2020, "Baselines".

    Differences from the papers: Laine and Aila use a squared error with a ramp-up over 80 epochs,
    for samples without labels; here it is a KL divergence, as Jiang et al. compare it. Their
    weight came from a grid search that is not printed: 4.0 is what LSTSD gives its short-term
    teacher, which is the nearest thing.
    """

    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        num_samples: int,
        momentum: float = 0.6,
        weight: float = 4.0,
        temperature: float = 2.0,
        kl: str = "reverse",
        table_dtype: str = "float32",
        from_logits: bool | None = None,
        name: str | None = None,
    ):
        check_momentum(momentum)
        check_distillation(temperature, kl, weight=weight)
        self.momentum = momentum
        self.weight = weight
        self.temperature = temperature
        self.kl = kl
        self.table_dtype = table_dtype
        super().__init__(student, num_samples, from_logits=from_logits, name=name)

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        size = (self.num_samples, self.num_classes, self.table_dtype, self.temperature)
        self.ensemble = SampleTable(*size, name="ensemble")
        self.pending = SampleTable(*size, name="pending")
        self.updates = self.add_weight(
            shape=(self.num_samples + 1,),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="updates",
        )

    def distillation_loss(self, batch: Batch) -> Any:
        """weight KL[p || q], q the bias-corrected average."""
        if self.weight == 0:
            batch.logs["teacher_coverage"] = ops.zeros_like(batch.logits[:, 0])
            return batch.logs["teacher_coverage"]
        teacher, known = batch.read(self.ensemble)
        batch.logs["teacher_coverage"] = known[:, 0]
        return self.weight * kl_of_softened(batch.logits, teacher, self.temperature, self.kl, known)

    def remember(self, batch: Batch) -> None:
        batch.write(self.pending, log_softmax(batch.logits, self.temperature))

    def on_epoch_edge(self, epoch: int) -> None:
        """Z <- a Z + (1 - a) p for the rows of the epoch; the table keeps q = Z / (1 - a^k)."""
        met = ops.cast(written(self.pending.rows[:, :1]), "float32")
        before = ops.cast(self.updates, "float32")[:, None]
        after = before + met
        ensemble, latest = (
            ops.exp(log_softmax(table.rows, 1 / self.temperature))
            for table in (self.ensemble, self.pending)
        )
        z = self.momentum * (1 - self.momentum**before) * ensemble + (1 - self.momentum) * latest
        corrected = ops.log(ops.maximum(z / (1 - self.momentum ** ops.maximum(after, 1)), SMALLEST))
        softened = log_softmax(corrected, self.temperature)
        rows = ops.where(met > 0, softened, ops.cast(self.ensemble.rows, "float32"))
        self.ensemble.rows.assign(ops.cast(rows, self.ensemble.rows.dtype))
        self.updates.assign(ops.cast(after[:, 0], "int32"))
        self.pending.clear()
