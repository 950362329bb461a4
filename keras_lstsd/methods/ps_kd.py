"""Progressive self-knowledge distillation, PS-KD (Kim et al., ICCV 2021)."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_share
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import cross_entropy, log_softmax
from keras_lstsd.step import Guidance, Step
from keras_lstsd.tables import SampleTable


@keras.saving.register_keras_serializable("keras_lstsd")
class PSKD(Distillation):
    """The prediction of the previous epoch softens each sample's label, more from epoch to epoch.

    In epoch t = 1..T of a `fit`, with p the prediction and q that of the previous epoch:

    `loss = (1 - a) * compiled + a * H(q, p)`, `a = final_alpha * t / T`,

    `H(q, p) = -sum_c q_c ln p_c`. With a crossentropy this is `H((1 - a) y + a q, p)`. The first
    epoch, and a sample that was never drawn, have the compiled loss only.

    Logs: `distillation_loss` (weighted), `teacher_coverage`.

    Memory: 2 tables of `num_samples x classes`, 8 bytes an entry (4 with float16).

    Args:
        student: a Keras classifier; see `Distillation`.
        num_samples: N, size of the training set. None: `fit` counts the samples of arrays and of
            data sets that `keras_lstsd.data.with_sample_index` numbered.
        final_alpha: a in the last epoch, in [0, 1]. 0.8 in the paper.
        table_dtype: `"float32"` or `"float16"`, of rows of all classes.
        top_k: how many of the largest probabilities of a row are stored; None for all. For many
            classes; see `SampleTable`.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for a `final_alpha` outside [0, 1], an unknown `table_dtype`.

    Example:
        >>> model = keras_lstsd.PSKD(student)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=300)

    Source: Kim et al. 2021, Eq. 5 and 7.

    Differences from the paper: none. It also takes the prediction from the forward pass that
    trained on the sample.
    """

    needs_sample_index = True
    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        num_samples: int | None = None,
        final_alpha: float = 0.8,
        table_dtype: str = "float32",
        top_k: int | None = None,
        **options: Any,
    ):
        super().__init__(student, num_samples=num_samples, **options)
        check_share("final_alpha", final_alpha)
        self.final_alpha = final_alpha
        self.table_dtype = table_dtype
        self.top_k = top_k
        self.previous = SampleTable(table_dtype, top_k=top_k, name="previous")
        self.pending = SampleTable(table_dtype, top_k=top_k, name="pending")

    def guidance(self, step: Step) -> Guidance | None:
        """a H(q, p), beside (1 - a) times the compiled loss."""
        if self.final_alpha == 0:
            return None
        rows, known = step.read(self.previous)
        known = known[:, 0]
        alpha = ops.where(known, self.final_alpha * self.progress, 0.0)
        loss = ops.where(known, cross_entropy(step.logits, rows), 0.0)
        return Guidance(alpha * loss, 1.0 - alpha, {"teacher_coverage": known})

    def record(self, step: Step, guidance: Guidance | None) -> None:
        step.write(self.pending, log_softmax(step.logits))

    def on_epoch_start(self, epoch: int) -> None:
        self.previous.copy_from(self.pending)
