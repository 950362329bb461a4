"""Snapshot Distillation (Yang et al., CVPR 2019)."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.arguments import check_distillation
from keras_lstsd.losses import kl_divergence
from keras_lstsd.self_distillation import Batch, SelfDistillation
from keras_lstsd.snapshots import Snapshot


@keras.saving.register_keras_serializable("keras_lstsd")
class SnapshotDistillation(SelfDistillation):
    """The last network of the previous mini-generation teaches the present one.

    With z_teacher the teacher's logits for the batch at hand, in inference mode, from
    mini-generation 1 on:

    `loss = student_weight * compiled + teacher_weight * KL[softmax(z_teacher / T) || p]`.

    The distillation is asymmetric: T softens the teacher alone. Mini-generation 0 has the compiled
    loss alone. Meant for a cyclic cosine learning rate, one cycle per mini-generation, which keeps
    teacher and student apart. It costs one set of weights and one forward pass a step.

    Logs: `distillation_loss` (weighted), `teacher_coverage`.

    Args:
        student: a Keras classifier; see `SelfDistillation`.
        num_samples: N, size of the training set.
        mini_generation_epochs: epochs of a mini-generation, 40 in the paper's 164-epoch runs.
        student_weight: weight of the compiled loss, at least 0.
        teacher_weight: weight of the teacher, at least 0.
        temperature: T > 0, for the teacher. 2 or 3 in the paper.
        from_logits: whether the student puts out logits. None finds out from its last layer.
        name: name of the model.

    Raises:
        ValueError: for a negative weight or a temperature that is not positive.

    Example:
        >>> steps = math.ceil(len(x_train) / 128)
        >>> rate = keras_lstsd.schedules.CyclicCosine(0.1, 40 * steps, total_steps=164 * steps)
        >>> model = keras_lstsd.SnapshotDistillation(student, num_samples=len(x_train))
        >>> model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: Yang et al. 2019; Jiang et al. 2020, "Baselines".

    Differences from the papers: the weights 1 and 1 are ours, as the sources at hand print none
    for this setting.
    """

    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        num_samples: int,
        mini_generation_epochs: int = 40,
        student_weight: float = 1.0,
        teacher_weight: float = 1.0,
        temperature: float = 2.0,
        from_logits: bool | None = None,
        name: str | None = None,
    ):
        check_distillation(
            temperature, student_weight=student_weight, teacher_weight=teacher_weight
        )
        self.student_weight = student_weight
        self.teacher_weight = teacher_weight
        self.temperature = temperature
        super().__init__(student, num_samples, mini_generation_epochs, from_logits, name)

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self.snapshot = Snapshot(self.student, name="snapshot")

    def compiled_loss_weight(self, batch: Batch) -> Any:
        """student_weight from mini-generation 1 on."""
        if self.student_weight == 1:
            return None
        return ops.where(batch.logs["teacher_coverage"], float(self.student_weight), 1.0)

    def distillation_loss(self, batch: Batch) -> Any:
        """teacher_weight KL[softmax(z_teacher / T) || p]."""
        known = self.snapshot.known
        batch.logs["teacher_coverage"] = ops.broadcast_to(known, ops.shape(batch.sample_index))
        teacher = self.snapshot.logits(self, batch.inputs)
        return self.teacher_weight * kl_divergence(
            batch.logits, teacher, self.temperature, "forward", student_temperature=1.0, known=known
        )

    def on_generation_edge(self, generation: int) -> None:
        self.snapshot.take(self.student)
