"""Mean Teacher (Tarvainen and Valpola, 2017)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_distillation, check_divergence, check_momentum, count
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import kl_divergence, log_softmax, squared_error
from keras_lstsd.schedules import ramp_up
from keras_lstsd.snapshot import Snapshot
from keras_lstsd.step import Guidance, Step


@keras.saving.register_keras_serializable("keras_lstsd")
class MeanTeacher(Distillation):
    """The student is taught by the moving average of its own weights.

    After step t = 0, 1, ..., over all float weights, BatchNorm's statistics included:
    `w' <- a_t w' + (1 - a_t) w`, `a_t = min(1 - 1/(t+1), momentum)`. With q the prediction of the
    averaged network for the batch at hand, in inference mode:

    `loss = compiled + weight * KL[p || q]`, both at temperature T,

    or the mean squared difference of the softened probabilities in place of the KL. It costs one
    set of weights and one forward pass a step.

    With `teacher=True`, `evaluate`, `predict` and `export` use the averaged network.

    Logs: `distillation_loss` (weighted), `teacher_coverage` (0 in the first step, then 1).

    Args:
        student: a Keras classifier; see `Distillation`.
        momentum: a in [0, 1). 0.999 in both papers.
        weight: weight of the teacher, at least 0.
        temperature: T > 0, for both sides.
        divergence: `"kl"`, or `"mse"` as in Tarvainen and Valpola.
        kl: `"reverse"` (KL[student || teacher]) or `"forward"`.
        ramp: R epochs over which the weight grows; see `schedules.ramp_up`. 0 for a constant
            weight, under which networks with BatchNorm can diverge in their first epoch: the
            teacher is in inference mode, and its averaged statistics are still far off.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for a momentum outside [0, 1), a negative weight or ramp, a temperature that
            is not positive, an unknown `kl` or `divergence`.

    Example:
        >>> model = keras_lstsd.MeanTeacher(student)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)
        >>> model.evaluate(x_test, y_test, teacher=True)

    Source: Tarvainen and Valpola 2017; Jiang et al. 2020, "Baselines".

    Differences from the papers: Jiang et al. print neither weight nor ramp. 4.0 is the weight of
    LSTSD's short-term teacher. Without a ramp ResNet-20 diverges. Student and teacher see the same
    augmented image, as only one is drawn. Some samples may lack a label, as in Tarvainen and
    Valpola; see `fit`.
    """

    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        momentum: float = 0.999,
        weight: float = 4.0,
        temperature: float = 2.0,
        divergence: str = "kl",
        kl: str = "reverse",
        ramp: int = 5,
        **options: Any,
    ):
        super().__init__(student, **options)
        check_momentum(momentum)
        check_divergence(divergence)
        check_distillation(temperature, kl, weight=weight)
        self.momentum = momentum
        self.weight = weight
        self.temperature = temperature
        self.divergence = divergence
        self.kl = kl
        self.ramp = count("ramp", ramp, at_least=0)
        self.average = Snapshot(name="average")

    def guidance(self, step: Step) -> Guidance | None:
        """weight KL[p || q], q of the averaged network."""
        if self.weight == 0:
            return None
        teacher, known = self.average.predict(step), self.average.known
        if self.divergence == "kl":
            values = kl_divergence(step.logits, teacher, self.temperature, self.kl)
        else:
            teacher = log_softmax(teacher, self.temperature)
            values = squared_error(step.logits, teacher, self.temperature)
        weight = ops.where(known, float(self.weight), 0.0) * ramp_up(self._epoch, self.ramp)
        coverage = ops.broadcast_to(known, ops.shape(values))
        return Guidance(ops.where(known, weight * values, 0.0), logs={"teacher_coverage": coverage})

    def after_update(self) -> None:
        """w' <- a_t w' + (1 - a_t) w."""
        self.average.average(self.momentum)

    def evaluate(self, *args, teacher: bool = False, **kwargs):
        """As `keras.Model.evaluate`; with `teacher=True` for the averaged network."""
        with self._with_weights_of(teacher):
            return super().evaluate(*args, **kwargs)

    def predict(self, *args, teacher: bool = False, **kwargs):
        """As `keras.Model.predict`; with `teacher=True` for the averaged network."""
        with self._with_weights_of(teacher):
            return super().predict(*args, **kwargs)

    def export(self, *args, teacher: bool = False, **kwargs):
        """As `Distillation.export`; with `teacher=True` for the averaged network."""
        with self._with_weights_of(teacher):
            return super().export(*args, **kwargs)

    def _with_weights_of(self, teacher: bool) -> AbstractContextManager:
        self.make_memory()
        return self.average.swapped_in() if teacher else nullcontext()
