"""LSTSD with one snapshot for all samples (Jiang et al., AAAI 2020, Table 3 "single")."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.losses import log_softmax
from keras_lstsd.methods.lstsd import LSTSD
from keras_lstsd.self_distillation import Batch, SelfDistillation
from keras_lstsd.snapshots import Snapshot


@keras.saving.register_keras_serializable("keras_lstsd")
class SingleTeacherLSTSD(LSTSD):
    """LSTSD whose teachers are two former networks, the same for all samples.

    The loss is that of `LSTSD`; q_short is what the weights at the end of the previous epoch say
    of the batch at hand, q_long those at the end of the previous mini-generation, both in
    inference mode. The paper's ablation for the worth of many teachers: it costs two sets of
    weights and two forward passes a step.

    Logs: as `LSTSD`.

    Args: as `LSTSD`, less `table_dtype`.

    Raises:
        ValueError: as `LSTSD`.

    Example:
        >>> model = keras_lstsd.SingleTeacherLSTSD(student, num_samples=len(x_train))
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: Jiang et al. 2020, "Analysis of Model Variants" and Table 3.

    Differences from the paper: it does not say whether a teacher drops units and uses batch
    statistics; here it does not.
    """

    def __init__(
        self,
        student: keras.Model,
        num_samples: int,
        mini_generation_epochs: int = 6,
        long_weight: float = 2.4,
        short_weight: float = 4.0,
        temperature: float = 2.0,
        kl: str = "reverse",
        from_logits: bool | None = None,
        name: str | None = None,
    ):
        super().__init__(
            student,
            num_samples,
            mini_generation_epochs,
            long_weight,
            short_weight,
            temperature,
            kl,
            from_logits=from_logits,
            name=name,
        )

    def build(self, input_shape: Any = None) -> None:
        SelfDistillation.build(self, input_shape)
        self.short_term = Snapshot(self.student, name="short_term")
        self.long_term = Snapshot(self.student, name="long_term")

    def ask(self, memories: list[Snapshot], batch: Batch) -> tuple[Any, Any]:
        logits = ops.stack([memory.logits(self, batch.inputs) for memory in memories])
        known = ops.stack([memory.known for memory in memories])[:, None, None]
        return log_softmax(logits, self.temperature), ops.broadcast_to(known, ops.shape(logits))

    def remember(self, batch: Batch) -> None:
        """Nothing: the weights are copied at the edges."""

    def on_epoch_edge(self, epoch: int) -> None:
        if epoch >= self.mini_generation_epochs:
            self.short_term.take(self.student)

    def on_generation_edge(self, generation: int) -> None:
        self.long_term.take(self.student)
