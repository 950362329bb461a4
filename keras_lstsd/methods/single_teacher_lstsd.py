"""LSTSD with one snapshot for all samples (Jiang et al., AAAI 2020, Table 3 "single")."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import log_softmax
from keras_lstsd.methods.lstsd import LSTSD
from keras_lstsd.snapshot import Snapshot
from keras_lstsd.step import Guidance, Step


@keras.saving.register_keras_serializable("keras_lstsd")
class SingleTeacherLSTSD(LSTSD):
    """LSTSD whose teachers are two earlier networks, the same for all samples.

    The loss is that of `LSTSD`. q_short is the prediction for the batch by the weights at the end
    of the previous epoch. q_long is that by the weights at the end of the previous
    mini-generation. Both are in inference mode. It is the paper's ablation for the value of
    per-sample teachers. It costs two sets of weights and two forward passes a step.

    Logs: as `LSTSD`.

    Args: as `LSTSD`, without `num_samples` and `table_dtype`.

    Raises:
        ValueError: as `LSTSD`.

    Example:
        >>> model = keras_lstsd.SingleTeacherLSTSD(student)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: Jiang et al. 2020, "Analysis of Model Variants" and Table 3.

    Differences from the paper: it does not say whether a teacher drops units and uses batch
    statistics; here it does neither.
    """

    needs_sample_index = False

    def __init__(
        self,
        student: keras.Model,
        mini_generation_epochs: int = 6,
        long_weight: float = 2.4,
        short_weight: float = 4.0,
        temperature: float = 2.0,
        kl: str = "reverse",
        ramp: int = 0,
        from_logits: bool | None = None,
        guided_output: str | None = None,
        drop_issues_after: int | None = None,
        name: str | None = None,
    ):
        # Without the tables of LSTSD.
        Distillation.__init__(
            self,
            student,
            mini_generation_epochs=mini_generation_epochs,
            from_logits=from_logits,
            guided_output=guided_output,
            drop_issues_after=drop_issues_after,
            name=name,
        )
        self._set_loss(long_weight, short_weight, temperature, kl, ramp)
        self.short_term = Snapshot(name="short_term")
        self.long_term = Snapshot(name="long_term")

    def predict_teachers(self, teachers: list[Snapshot], step: Step) -> tuple[Any, Any]:
        logits = ops.stack([teacher.predict(step) for teacher in teachers])
        known = ops.stack([teacher.known for teacher in teachers])[:, None, None]
        return log_softmax(logits, self.temperature), ops.broadcast_to(known, ops.shape(logits))

    def record(self, step: Step, guidance: Guidance | None) -> None:
        """Nothing: the weights are copied at the boundaries."""

    def on_epoch_start(self, epoch: int) -> None:
        if epoch >= self.mini_generation_epochs:
            self.short_term.take()

    def on_stage_start(self, stage: int) -> None:
        if stage > 0:
            self.long_term.take()
