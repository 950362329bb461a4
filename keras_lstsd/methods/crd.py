"""Contrastive representation distillation, CRD (Tian et al., 2020)."""

from collections.abc import Callable
from typing import Any

import keras

from keras_lstsd.checks import check_distillation
from keras_lstsd.contrast import Contrast
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import cross_entropy, log_softmax
from keras_lstsd.step import Guidance, Step
from keras_lstsd.teachers import Given, set_teacher


@keras.saving.register_keras_serializable("keras_lstsd")
class CRD(Distillation):
    """The student's features of a sample are held near the teacher's, and far from other samples'.

    `loss = compiled + weight * NCE + kd_weight * T^2 * H(p_T, q_T)`,

    where NCE is the loss of `contrast.Contrast`, p the teacher's prediction, q the student's, and
    `H(a, b) = -sum_c a_c ln b_c`.

    Logs: `distillation_loss` (weighted).

    Memory: two tables of N x 128 float32, and a copy of the teacher's weights.

    Args:
        student: a Keras classifier, functional or sequential; see `Distillation`.
        teacher: a built Keras classifier of that kind, or a `teachers.Given`.
        weight: factor of NCE, at least 0.
        kd_weight: factor of the divergence of the outputs, at least 0; the paper's CRD+KD has 1.
        kd_temperature: T > 0, of that divergence.
        contrast: a `contrast.Contrast`: which layers, how many negatives. None: the paper's.
        num_samples: size of the training set. None: `fit` counts the samples.
        teacher_inputs: None, or a function from the student's inputs to the teacher's.
        teacher_from_logits: whether the teacher's outputs are logits. None: decided by its last
            layer.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for weights below 0, a temperature that is not positive, a network that is not
            functional, an unknown layer, another number of classes, and mixed inputs.

    Example:
        >>> model = keras_lstsd.CRD(student, teacher)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=64, epochs=240)

    Source: Tian et al. 2020, Eq. 10 to 19; settings as in Shi et al. 2021.

    Differences from the paper: see `contrast.Contrast`.
    """

    needs_sample_index = True
    logged = ("distillation_loss",)

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Given,
        weight: float = 0.8,
        kd_weight: float = 0.0,
        kd_temperature: float = 4.0,
        contrast: Contrast | None = None,
        num_samples: int | None = None,
        teacher_inputs: Callable | None = None,
        teacher_from_logits: bool | None = None,
        **options: Any,
    ):
        super().__init__(student, num_samples=num_samples, **options)
        check_distillation(kd_temperature, weight=weight, kd_weight=kd_weight)
        self.weight = weight
        self.kd_weight = kd_weight
        self.kd_temperature = kd_temperature
        set_teacher(self, Given, teacher, teacher_inputs, teacher_from_logits)
        self.contrast = Contrast.of(self, contrast, is_used=weight > 0)

    def on_epoch_start(self, epoch: int) -> None:
        """Reads the class of each sample, for negatives of other classes."""
        self.contrast.read_classes(self)

    def guidance(self, step: Step) -> Guidance | None:
        """weight NCE + kd_weight T^2 H(p_T, q_T)."""
        if self.weight == self.kd_weight == 0:
            return None
        logits, features = self.teacher.predict_with_features(step)
        loss, memory = 0.0, None
        if self.weight:
            contrast, memory = self.contrast.loss(step, features)
            loss = self.weight * contrast
        if self.kd_weight:
            temperature = self.kd_temperature
            teacher = log_softmax(logits, temperature)
            divergence = cross_entropy(step.logits, teacher, temperature)
            loss = loss + self.kd_weight * temperature**2 * divergence
        return Guidance(loss, memory=memory)

    def record(self, step: Step, guidance: Guidance | None) -> None:
        """Moves the memories towards the features of the step."""
        if guidance is not None and guidance.memory is not None:
            self.contrast.record(step, guidance.memory)
