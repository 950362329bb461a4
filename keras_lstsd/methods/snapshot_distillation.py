"""Snapshot Distillation (Yang et al., CVPR 2019)."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_distillation
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import kl_divergence
from keras_lstsd.snapshot import Snapshot
from keras_lstsd.step import Guidance, Step


@keras.saving.register_keras_serializable("keras_lstsd")
class SnapshotDistillation(Distillation):
    """The network at the end of the previous mini-generation teaches the present one.

    With z_teacher the teacher's logits for the batch at hand, in inference mode, from
    mini-generation 1 on:

    `loss = student_weight * compiled + teacher_weight * KL[softmax(z_teacher / T) || p]`.

    The distillation is asymmetric: T softens the teacher only. Mini-generation 0 has the compiled
    loss only. It is meant for a cyclic cosine learning rate, one cycle per mini-generation, which
    keeps teacher and student apart. It costs one set of weights and one forward pass a step.

    Logs: `distillation_loss` (weighted), `teacher_coverage`.

    Args:
        student: a Keras classifier; see `Distillation`.
        mini_generation_epochs: epochs of a mini-generation, 40 in the paper's 164-epoch runs.
        student_weight: weight of the compiled loss, at least 0.
        teacher_weight: weight of the teacher, at least 0.
        temperature: T > 0, for the teacher. 2 or 3 in the paper.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for a negative weight or a temperature that is not positive.

    Example:
        >>> steps = math.ceil(len(x_train) / 128)
        >>> rate = keras_lstsd.schedules.CyclicCosine(0.1, 40 * steps, total_steps=164 * steps)
        >>> model = keras_lstsd.SnapshotDistillation(student)
        >>> model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: Yang et al. 2019; Jiang et al. 2020, "Baselines".

    Differences from the papers: the weights 1 and 1 are our choice, as the sources print none for
    this setting.
    """

    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        mini_generation_epochs: int = 40,
        student_weight: float = 1.0,
        teacher_weight: float = 1.0,
        temperature: float = 2.0,
        **options: Any,
    ):
        super().__init__(student, mini_generation_epochs=mini_generation_epochs, **options)
        check_distillation(
            temperature, student_weight=student_weight, teacher_weight=teacher_weight
        )
        self.student_weight = student_weight
        self.teacher_weight = teacher_weight
        self.temperature = temperature
        self.snapshot = Snapshot(name="snapshot")

    def guidance(self, step: Step) -> Guidance | None:
        """teacher_weight KL[softmax(z_teacher / T) || p], beside student_weight times compiled."""
        if self.teacher_weight == 0 and self.student_weight == 1:
            return None
        known = self.snapshot.known
        teacher = self.snapshot.predict(step)
        loss = self.teacher_weight * kl_divergence(
            step.logits, teacher, self.temperature, "forward", student_temperature=1.0, known=known
        )
        covered, task_weight = ops.broadcast_to(known, ops.shape(loss)), 1.0
        if self.student_weight != 1:
            task_weight = ops.where(covered, float(self.student_weight), 1.0)
        return Guidance(loss, task_weight, {"teacher_coverage": covered})

    def on_stage_start(self, stage: int) -> None:
        if stage > 0:
            self.snapshot.take()
