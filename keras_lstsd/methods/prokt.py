"""Progressively supervised distillation, ProKT (Shi et al., 2021)."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_lstsd import compat
from keras_lstsd.checks import check_distillation, check_one_output, check_share
from keras_lstsd.contrast import Contrast
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import cross_entropy, log_softmax
from keras_lstsd.outputs import classes_of
from keras_lstsd.step import Guidance, Step
from keras_lstsd.teachers import Trained, set_teacher, without_side_effects


@keras.saving.register_keras_serializable("keras_lstsd")
class ProKT(Distillation):
    """A teacher is trained beside the student, and held near what the student can learn.

    Every step first updates the teacher's weights, then the student's. With the student's
    prediction q, the teacher's p before and p' after its update:

    - teacher: `(1 - projection) * compiled(y, p) + projection * H(q, p)`;
    - student: `(1 - alpha) * compiled(y, q) + alpha * T^2 * H(p'_T, q_T)`,

    `H(a, b) = -sum_c a_c ln b_c`. Both forward passes of the teacher, and that of the student, are
    those of training, dropout included. It costs a training step of the teacher, and one more
    forward pass of both networks.

    With a `contrast` the contrast of both networks' features replaces `T^2 * H(p'_T, q_T)`: that
    is the paper's CRD + ProKT.

    Logs: `distillation_loss` (weighted), `teacher_accuracy` (of p', on the training samples).

    Args:
        student: a Keras classifier; see `Distillation`.
        teacher: a built Keras classifier, with random or trained weights, which are trained.
        projection: lambda in [0, 1], how much the teacher follows the student. 0 is the paper's
            ablation.
        alpha: share of the teacher in the student's loss, in [0, 1]. 0 is plain training.
        temperature: T > 0, for both sides of the student's loss.
        contrast: None, or a `contrast.Contrast`, which needs the index of each sample.
        num_samples: size of the training set, with a contrast. None: `fit` counts the samples.
        teacher_inputs: None, or a function from the student's inputs to the teacher's.
        teacher_from_logits: whether the teacher's outputs are logits. None: decided by its last
            layer.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for a share outside [0, 1], a temperature that is not positive, a teacher that
            is not built or has other classes.

    Example:
        >>> model = keras_lstsd.ProKT(student, teacher)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", teacher_optimizer="sgd")
        >>> model.fit(x_train, y_train, batch_size=64, epochs=240)
        >>> model.export("teacher/1", teacher=True)

    Source: Shi et al. 2021, Algorithm 1 and Eq. 7.

    Differences from the paper: it chooses lambda and alpha on validation data and prints neither;
    0.3 and 0.9 are our choice. On 10,000 images of CIFAR-100 they cost 7 to 8 points of accuracy in
    20 to 30 epochs; a smaller `alpha` gives the labels more weight.
    """

    logged = ("distillation_loss", "teacher_accuracy")

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Trained,
        projection: float = 0.3,
        alpha: float = 0.9,
        temperature: float = 1.0,
        contrast: Contrast | None = None,
        num_samples: int | None = None,
        teacher_inputs: Callable | None = None,
        teacher_from_logits: bool | None = None,
        **options: Any,
    ):
        self.needs_sample_index = contrast is not None
        super().__init__(student, num_samples=num_samples, **options)
        check_one_output(self)
        check_share("projection", projection)
        check_share("alpha", alpha)
        check_distillation(temperature)
        self.projection = projection
        self.alpha = alpha
        self.temperature = temperature
        if contrast is not None and temperature != 1:
            raise ValueError(
                "A contrast has a temperature of its own. "
                f"Received: temperature={temperature} with a contrast. Expected: "
                "`ProKT(student, teacher, contrast=Contrast(temperature=0.07))`."
            )
        set_teacher(self, Trained, teacher, teacher_inputs, teacher_from_logits)
        self.contrast = contrast and Contrast.of(self, contrast, is_used=alpha > 0)

    def on_epoch_start(self, epoch: int) -> None:
        """Reads the class of each sample, for negatives of other classes."""
        if self.contrast is not None:
            self.contrast.read_classes(self)

    def compile(self, optimizer="rmsprop", *args, teacher_optimizer=None, **kwargs):
        """As `keras.Model.compile`.

        Args:
            teacher_optimizer: the teacher's optimizer; None copies the student's.
        """
        super().compile(optimizer, *args, **kwargs)
        if teacher_optimizer is None:
            teacher_optimizer = keras.optimizers.serialize(self.optimizer)
        self.teacher.optimizer = keras.optimizers.get(teacher_optimizer)
        if self.has_memory:
            self.teacher.attach(self)

    def get_compile_config(self):
        optimizer = keras.optimizers.serialize(self.teacher.optimizer)
        return super().get_compile_config() | {"teacher_optimizer": optimizer}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def before_update(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
        """theta_t <- theta_t - eta_t grad [(1 - lambda) H(y, p) + lambda H(q, p)]."""
        if self.alpha == 0:
            return None
        inputs = self.inputs_of(x)
        student = self._student_log_probs(inputs) if self.projection else None

        def loss():
            y_pred = self.teacher(inputs, training=True)
            logits = self.teacher.logits_of(y_pred)
            labels, weights = y, sample_weight
            if self.has_unlabelled:
                labels, _, weights = self.labelled(y, y_pred, sample_weight)
            task = compat.task_loss(self, labels, self._as_outputs(logits, y_pred), weights)
            value = (1 - self.projection) * task
            if self.projection:
                nearness = cross_entropy(logits, student)
                value = value + self.projection * self.reduced(nearness, y_pred, sample_weight)
            return value + compat.added_losses(self, self.teacher.network)

        return self.update(self.teacher.network, self.teacher.optimizer, loss)

    def _student_log_probs(self, inputs: Any) -> Any:
        """ln q of the forward pass that this step makes later, without its side effects."""
        with without_side_effects(self.student):
            y_pred = self.student(inputs, training=True)
        return ops.stop_gradient(log_softmax(self.logits_of(y_pred)))

    def _as_outputs(self, logits: Any, y_pred: Any) -> Any:
        """The teacher's logits `[rows, classes]` in the form of the student's outputs."""
        one_unit = self.student_units == 1
        if one_unit:
            logits = logits[:, 1:] - logits[:, :1]
        if self.positions.axes:
            logits = ops.reshape(logits, (*ops.shape(y_pred)[:-1], -1))
        if self.from_logits:
            return logits
        return (keras.activations.sigmoid if one_unit else keras.activations.softmax)(logits)

    def guidance(self, step: Step) -> Guidance | None:
        """alpha T^2 H(p', q) or alpha NCE, beside (1 - alpha) times the compiled loss."""
        if self.alpha == 0:
            return None
        logits, features = self.teacher.predict_with_features(step)
        if self.contrast is not None:
            loss, memory = self.contrast.loss(step, features)
        else:
            teacher = log_softmax(logits, self.temperature)
            loss = self.temperature**2 * cross_entropy(step.logits, teacher, self.temperature)
            memory = None
        correct = ops.argmax(logits, axis=-1) == classes_of(step.y, self.num_classes)
        logs = {"teacher_accuracy": correct}
        return Guidance(self.alpha * loss, 1.0 - self.alpha, logs, memory)

    def record(self, step: Step, guidance: Guidance | None) -> None:
        """With a contrast, moves its memories towards the features of the step."""
        if self.contrast is not None and guidance is not None:
            self.contrast.record(step, guidance.memory)

    # The student's optimizer must not update the teacher.

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return self._of_student(super().trainable_variables, True)

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        return self._of_student(self.variables, False)

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        return self._of_student(super().trainable_weights, True)

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        return self._of_student(self.weights, False)

    def _of_student(self, variables: list, trained: bool) -> list[keras.Variable]:
        networks = [self.student, *([] if self.contrast is None else [self.contrast])]
        own = {id(variable) for network in networks for variable in network.trainable_variables}
        return [variable for variable in variables if (id(variable) in own) is trained]

    def export(self, *args, teacher: bool = False, **kwargs):
        """As `Distillation.export`; with `teacher=True` for the teacher."""
        if not teacher:
            return super().export(*args, **kwargs)
        return Distillation(self.teacher.network, from_logits=self.teacher.from_logits).export(
            *args, **kwargs
        )
