"""Early-learning regularization, ELR (Liu et al., NeurIPS 2020), for wrong labels."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_distillation, check_momentum
from keras_lstsd.distillation import Distillation
from keras_lstsd.methods.temporal_ensembling import AverageTable
from keras_lstsd.step import Guidance, Step
from keras_lstsd.tables import SampleTable

# Of probabilities, as in the authors' code.
SMALLEST_SHARE = 1e-4


@keras.saving.register_keras_serializable("keras_lstsd")
class ELR(Distillation):
    """A moving average of each sample's own predictions keeps wrong labels from being learned.

    With p the prediction, clipped to [1e-4, 1 - 1e-4], and the sample's target t, which starts
    at 0:

    `t <- momentum * t + (1 - momentum) * p / sum_c p_c`, without gradient, then

    `loss = compiled + weight * ln(1 - <t, p>)`.

    The last term is negative. Its gradient is larger where the prediction agrees with the target.

    Logs: `distillation_loss` (the last term, weighted).

    Memory: 2 tables of `num_samples x classes`, 8 bytes an entry (4 with float16).

    Args:
        student: a Keras classifier; see `Distillation`.
        num_samples: N, size of the training set. None: `fit` counts the samples of arrays and of
            data sets that `keras_lstsd.data.with_sample_index` numbered.
        momentum: in [0, 1). 0.7 on CIFAR-10, 0.9 on CIFAR-100.
        weight: lambda, at least 0. 3 on CIFAR-10, 7 on CIFAR-100.
        table_dtype: `"float32"` or `"float16"`, of rows of all classes.
        top_k: how many of the largest probabilities of a row are stored; None for all. For many
            classes; see `SampleTable`.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for a momentum outside [0, 1), a negative weight, an unknown `table_dtype`.

    Example:
        >>> model = keras_lstsd.ELR(student)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=120)

    Source: Liu et al. 2020, Eq. 6 and 9; the clipping from the authors' code.

    Differences from the paper: the target moves at an epoch boundary; within an epoch each draw
    starts from the same one. The two differ only for a sample drawn twice in an epoch.
    """

    needs_sample_index = True
    logged = ("distillation_loss",)

    def __init__(
        self,
        student: keras.Model,
        num_samples: int | None = None,
        momentum: float = 0.7,
        weight: float = 3.0,
        table_dtype: str = "float32",
        top_k: int | None = None,
        **options: Any,
    ):
        super().__init__(student, num_samples=num_samples, **options)
        check_momentum(momentum)
        check_distillation(1.0, weight=weight)
        self.momentum = momentum
        self.weight = weight
        self.table_dtype = table_dtype
        self.top_k = top_k
        self.ensemble = AverageTable(table_dtype, top_k=top_k, name="ensemble")
        self.pending = SampleTable(table_dtype, top_k=top_k, name="pending")

    def guidance(self, step: Step) -> Guidance | None:
        """weight ln(1 - <t, p>), t just updated."""
        if self.weight == 0:
            return None
        p = self._clipped(step)
        rows, known = step.read(self.ensemble)
        share = self.ensemble.share(step, self.momentum)
        target = ops.where(known, self.momentum * share * ops.exp(rows), 0.0)
        target = target + (1 - self.momentum) * p / ops.sum(p, axis=-1, keepdims=True)
        agreement = ops.sum(ops.stop_gradient(target) * p, axis=-1)
        return Guidance(self.weight * ops.log(1 - agreement))

    def _clipped(self, step: Step):
        return ops.clip(ops.softmax(step.logits), SMALLEST_SHARE, 1 - SMALLEST_SHARE)

    def record(self, step: Step, guidance: Guidance | None) -> None:
        p = self._clipped(step)
        step.write(self.pending, ops.log(p / ops.sum(p, axis=-1, keepdims=True)))

    def on_epoch_start(self, epoch: int) -> None:
        if epoch > 0:
            self.ensemble.average(self.pending, self.momentum)
            self.pending.clear()
