"""Distillation by Utilizing Peer Samples: one teacher per class."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_distillation, count
from keras_lstsd.class_tables import ClassTable
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import kl_of_softened, log_softmax
from keras_lstsd.outputs import classes_of
from keras_lstsd.step import Guidance, Step
from keras_lstsd.tables import in_range
from keras_lstsd.variables import from_all_replicas, only_if


@keras.saving.register_keras_serializable("keras_lstsd")
class DUPS(Distillation):
    """Each sample is taught by the mean prediction for some samples of its class, its peers.

    For each class, `q_c = 1/n sum softmax(z / T)` over n random samples of that class. They are
    taken in the last epoch of each stage (mini-generation), from the passes that trained on them.
    In the next stage, with p_T the student at temperature T and c the sample's class:

    `loss = student_weight * compiled + teacher_weight * KL[q_c || p_T]`.

    Stage 0 has the compiled loss only, and so has a sample whose class has no teacher or that has
    no label. A soft label counts as the class of its largest share. The memory is one table of
    classes x classes. With a `CyclicCosine` learning rate, one cycle per stage, it is the paper's
    DUPS+. Each value of each label of a multi-label student is a class; the weight of a sample's
    compiled loss is then the mean over its labels.

    Logs: `distillation_loss` (weighted), `teacher_coverage`.

    Args:
        student: a Keras classifier; see `Distillation`.
        mini_generation_epochs: epochs of a stage. 16 are the paper's 10 stages of 160 epochs.
        student_weight: weight of the compiled loss, at least 0. 0.8 in the paper.
        teacher_weight: weight of the teacher, at least 0. 0.2 in the paper.
        temperature: T > 0. 6 in the paper.
        peers: n, how many samples of a class make its teacher; None takes all.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for a negative weight, a temperature that is not positive, peers below 1.

    Example:
        >>> model = keras_lstsd.DUPS(student, peers=5)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: "One Generation Knowledge Distillation by Utilizing Peer Samples", Eq. 2-5, Alg. 1.

    Differences from the paper: the n peers of a class are the first n that the stage's last epoch
    draws, which is a random choice where the data is shuffled (`fit` shuffles arrays by Keras's
    seed). Predictions are those of the training steps, not of an extra pass.
    """

    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        mini_generation_epochs: int = 16,
        student_weight: float = 0.8,
        teacher_weight: float = 0.2,
        temperature: float = 6.0,
        peers: int | None = None,
        **options: Any,
    ):
        super().__init__(student, mini_generation_epochs=mini_generation_epochs, **options)
        check_distillation(
            temperature, student_weight=student_weight, teacher_weight=teacher_weight
        )
        self.student_weight = student_weight
        self.teacher_weight = teacher_weight
        self.temperature = temperature
        self.peers = None if peers is None else count("peers", peers)
        self.class_table = ClassTable(self.peers, name="class_table")

    def labels(self, step: Step) -> Any:
        """Classes of the samples, int32 `[batch]`; their shares `[batch, classes]` in mixtures."""
        if step.mixing is not None:
            return step.y
        classes = classes_of(step.y, self.num_classes)
        if not self.positions.multi_label:
            return classes
        # A class of its own for each value of each label.
        label = ops.arange(ops.shape(classes)[0], dtype="int32") % self.positions.labels
        known = in_range(classes, self.num_classes)
        return ops.where(known, self.num_classes * label + classes, -1)

    def guidance(self, step: Step) -> Guidance | None:
        """teacher_weight KL[q_c || p_T], beside student_weight times the compiled loss."""
        if self.teacher_weight == 0 and self.student_weight == 1:
            return None
        labels = self.labels(step)
        # Rows are softened already, and finite where a class is unknown, too.
        teacher, known = self.class_table.read(labels)
        covered, task_weight = known[:, 0], 1.0
        loss = kl_of_softened(step.logits, teacher, self.temperature, "forward")
        loss = ops.where(covered, loss, 0.0)
        if self.student_weight != 1:
            task_weight = ops.where(covered, float(self.student_weight), 1.0)
        logs = {"teacher_coverage": covered}
        return Guidance(self.teacher_weight * loss, task_weight, logs, memory=labels)

    def record(self, step: Step, guidance: Guidance | None) -> None:
        if guidance is None:
            return
        # Other epochs are dropped, so the step need not collect them.
        is_last = (ops.convert_to_tensor(self._epoch) + 1) % self.mini_generation_epochs == 0
        labels, logits = from_all_replicas(guidance.memory, ops.stop_gradient(step.logits))

        def collect():
            softened = ops.exp(log_softmax(logits, self.temperature))
            self.class_table.collect(labels, softened)

        only_if(is_last, collect)

    def on_epoch_start(self, epoch: int) -> None:
        if epoch % self.mini_generation_epochs:
            self.class_table.drop()

    def on_stage_start(self, stage: int) -> None:
        if stage > 0:
            self.class_table.rotate()
