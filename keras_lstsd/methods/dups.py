"""Distillation by Utilizing Peer Samples: one teacher per class."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.arguments import check_distillation, count
from keras_lstsd.losses import kl_of_softened, log_softmax
from keras_lstsd.self_distillation import Batch, SelfDistillation
from keras_lstsd.tables import ClassTable


@keras.saving.register_keras_serializable("keras_lstsd")
class DUPS(SelfDistillation):
    """Each sample is taught by the mean prediction for some peers of its class.

    For each class, `q_c = 1/n sum softmax(z / T)` over n random samples of that class, taken in
    the last epoch of each stage (mini-generation), from the forward passes that trained on them.
    In the next stage, with p_T the student at temperature T and c the sample's label:

    `loss = student_weight * compiled + teacher_weight * KL[q_c || p_T]`.

    Stage 0 has the compiled loss alone, and so has a sample whose class has no teacher. The memory
    is one table of classes x classes. With a `CyclicCosine` learning rate, one cycle per stage, it
    is the paper's DUPS+.

    Logs: `distillation_loss` (weighted), `teacher_coverage`.

    Args:
        student: a Keras classifier; see `SelfDistillation`.
        num_samples: N, size of the training set.
        mini_generation_epochs: epochs of a stage. 16 are the paper's 10 stages of 160 epochs.
        student_weight: weight of the compiled loss, at least 0. 0.8 in the paper.
        teacher_weight: weight of the teacher, at least 0. 0.2 in the paper.
        temperature: T > 0. 6 in the paper.
        peers: n, how many samples of a class make its teacher; None takes all.
        from_logits: whether the student puts out logits. None finds out from its last layer.
        name: name of the model.

    Raises:
        ValueError: for a negative weight, a temperature that is not positive, peers below 1.

    Example:
        >>> model = keras_lstsd.DUPS(student, num_samples=len(x_train), peers=5)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: "One Generation Knowledge Distillation by Utilizing Peer Samples", Eq. 2-5, Alg. 1.

    Differences from the paper: the n peers of a class are the first n that the stage's last epoch
    draws, which is a random choice where the data is shuffled (`fit` on arrays shuffles by
    Keras's seed); predictions are those of the training steps, not of a pass of their own.
    """

    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        num_samples: int,
        mini_generation_epochs: int = 16,
        student_weight: float = 0.8,
        teacher_weight: float = 0.2,
        temperature: float = 6.0,
        peers: int | None = None,
        from_logits: bool | None = None,
        name: str | None = None,
    ):
        check_distillation(
            temperature, student_weight=student_weight, teacher_weight=teacher_weight
        )
        self.student_weight = student_weight
        self.teacher_weight = teacher_weight
        self.temperature = temperature
        self.peers = None if peers is None else count("peers", peers)
        super().__init__(student, num_samples, mini_generation_epochs, from_logits, name)

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self.class_table = ClassTable(self.num_classes, self.peers, name="class_table")

    def labels(self, batch: Batch) -> Any:
        """Classes of the samples, int32 `[batch]`; their shares `[batch, classes]` in mixtures."""
        if batch.mixing is not None:
            return batch.y
        if self.is_one_hot(batch.y):
            return ops.cast(ops.argmax(batch.y, axis=-1), "int32")
        return ops.cast(ops.reshape(batch.y, (-1,)), "int32")

    def is_one_hot(self, y: Any) -> bool:
        """Whether labels are shares of the classes, which none can lie outside of."""
        return len(y.shape) == 2 and y.shape[-1] == self.num_classes

    def compiled_loss_weight(self, batch: Batch) -> Any:
        """student_weight where the class has a teacher."""
        if self.student_weight == 1:
            return None
        return ops.where(batch.logs["teacher_coverage"], float(self.student_weight), 1.0)

    def distillation_loss(self, batch: Batch) -> Any:
        """teacher_weight KL[q_c || p_T]; q_c is softened already."""
        teacher, known = self.class_table.read(self.labels(batch), self.is_one_hot(batch.y))
        batch.logs["teacher_coverage"] = known[:, 0]
        return self.teacher_weight * kl_of_softened(
            batch.logits, teacher, self.temperature, "forward", known
        )

    def remember(self, batch: Batch) -> None:
        softened = ops.exp(log_softmax(batch.logits, self.temperature))
        self.class_table.collect(self.labels(batch), softened)

    def on_epoch_edge(self, epoch: int) -> None:
        if epoch % self.mini_generation_epochs:
            self.class_table.drop()

    def on_generation_edge(self, generation: int) -> None:
        self.class_table.rotate()
