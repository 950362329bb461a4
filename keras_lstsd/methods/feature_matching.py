"""Matching a given teacher's features: hints (FitNets, Romero et al., 2015) and other losses."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops
from keras.distillation import DistillationLoss, FeatureDistillation, LogitsDistillation

from keras_lstsd.checks import check_distillation, check_one_class
from keras_lstsd.distillation import Distillation
from keras_lstsd.step import Guidance, Step
from keras_lstsd.taps import before_head
from keras_lstsd.teachers import Given, set_teacher


class Pair(keras.layers.Layer):
    """A loss, the layers it compares, and a dense layer between them where their widths differ."""

    def __init__(self, loss: DistillationLoss, weight: float, regress: bool, name: str):
        super().__init__(name=name)
        self.loss, self.weight, self.regress = loss, weight, regress
        self.of_teacher = getattr(loss, "teacher_layer_name", None)
        self.of_student = getattr(loss, "student_layer_name", None)

    def connect(self, model: Any) -> None:
        """Makes the dense layer, where one is needed.

        Raises:
            ValueError: for features that have different shapes then.
        """
        if self.built:
            return
        student = teacher = (None, model.num_classes)
        if self.of_student:
            student = tuple(model.tapped().output.features[self.of_student].shape)
        if self.of_teacher:
            teacher = tuple(model.teacher.tapped().output.features[self.of_teacher].shape)
        self.dense = None
        if self.regress and student[-1] != teacher[-1]:
            self.dense = keras.layers.Dense(teacher[-1], name="dense")
            self.dense.build(student)
        if student[:-1] != teacher[:-1] or (self.dense is None and student != teacher):
            raise ValueError(
                "The features of a pair must have one shape. "
                f"Received: {student} of the student's {self.of_student!r}, {teacher} of the "
                f"teacher's {self.of_teacher!r}. Expected: layers of equal shape; with "
                "`regressors=True` the last axis may differ."
            )
        self.built = True

    def call(self, teacher: Any, student: Any, is_weighted: bool = False) -> Any:
        """The weighted loss per sample `[batch]`."""
        if self.dense is not None:
            student = self.dense(student)
        teacher, student = (ops.cast(it, "float32") for it in (teacher, student))
        scale, loss = self.weight, self.loss
        function, compute = getattr(loss, "loss", None), type(loss).compute_loss
        if compute is LogitsDistillation.compute_loss:
            teacher, student = (it / loss.temperature for it in (teacher, student))
            if function is keras.losses.kl_divergence or isinstance(
                function, keras.losses.KLDivergence
            ):
                teacher, student = (ops.softmax(it, axis=-1) for it in (teacher, student))
                scale = scale * loss.temperature**2
        elif compute is not FeatureDistillation.compute_loss:
            if is_weighted:
                raise ValueError(
                    "This loss gives one value for a batch, which sample weights cannot weigh. "
                    f"Received: {type(loss).__name__} with sample weights. Expected: a "
                    "`FeatureDistillation` or `LogitsDistillation`, or no sample weights."
                )
            value = loss.compute_loss(teacher, student)
            return scale * ops.broadcast_to(value, ops.shape(student)[:1])
        function = function.call if isinstance(function, keras.losses.Loss) else function
        values = function(teacher, student)
        return scale * ops.mean(ops.reshape(values, (ops.shape(values)[0], -1)), axis=-1)


@keras.saving.register_keras_serializable("keras_lstsd")
class FeatureMatching(Distillation):
    """The student's features or outputs are held near those of a given teacher.

    With any losses l_k of `keras.distillation`, between the teacher's layer and the student's:

    `loss = compiled + sum_k weight_k * l_k(teacher's features, student's features)`.

    The features come from the one forward pass of each network. Each loss is averaged over all
    positions and channels of a sample, then reduced as the compiled loss is, with sample weights.
    A loss without layer names compares the logits.

    Logs: `distillation_loss` (weighted).

    Memory: a copy of the teacher's weights.

    Args:
        student: a Keras classifier, functional or sequential; see `Distillation`.
        teacher: a built Keras classifier of that kind, or a `teachers.Given`.
        distillation_losses: a `keras.distillation.FeatureDistillation`, `LogitsDistillation` or
            other `DistillationLoss`, or a list of them. A layer inside another one is named
            `"backbone/pooler"`. A `compute_loss` of your own gives one value for a batch, so it
            does not take sample weights. None: the mean square between the layers before the last
            ones with weights.
        distillation_loss_weights: one weight for each loss, at least 0. None: 1 for each.
        regressors: whether a dense layer, trained with the student, maps the student's features
            to the teacher's width where these differ, as in FitNets.
        teacher_inputs: None, or a function from the student's inputs to the teacher's.
        teacher_from_logits: whether the teacher's outputs are logits. None: decided by its last
            layer.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for losses of another type, weights that are not one per loss, a network that
            is not functional, an unknown layer, and features of different shapes.

    Example:
        >>> layers = teacher.layers[-1].name, student.layers[-1].name
        >>> hint = keras.distillation.FeatureDistillation("mse", *layers)
        >>> model = keras_lstsd.FeatureMatching(student, teacher, [hint])
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=64, epochs=240)

    Source: Romero et al. 2015, Eq. 3, for hints; the losses are those of `keras.distillation`.

    Differences from the paper: FitNets trains on hints first and on labels afterwards; here both
    are one loss. `keras.losses.kl_divergence` of `LogitsDistillation`, its default in Keras 3.15,
    is applied to softmax probabilities and multiplied by T^2, as `KLDivergence()` is.
    """

    logged = ("distillation_loss",)

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Given,
        distillation_losses: DistillationLoss | Sequence[DistillationLoss] | None = None,
        distillation_loss_weights: Sequence[float] | None = None,
        regressors: bool = True,
        teacher_inputs: Callable | None = None,
        teacher_from_logits: bool | None = None,
        **options: Any,
    ):
        super().__init__(student, **options)
        set_teacher(self, Given, teacher, teacher_inputs, teacher_from_logits)
        if isinstance(distillation_losses, DistillationLoss):
            distillation_losses = [distillation_losses]
        self.distillation_losses = distillation_losses and tuple(distillation_losses)
        losses = self.distillation_losses
        if losses is None:
            # The settings keep None: names that Keras gives differ from process to process.
            layers = before_head(self.teacher.network), before_head(student)
            losses = [FeatureDistillation("mse", *layers)]
        if distillation_loss_weights is None:
            distillation_loss_weights = [1.0] * len(losses)
        self.distillation_loss_weights = tuple(distillation_loss_weights)
        self._check_losses(losses)
        self.regressors = regressors
        pairs = zip(losses, self.distillation_loss_weights, strict=True)
        self.pairs = [
            Pair(loss, weight, regressors, name=f"pair_{number}")
            for number, (loss, weight) in enumerate(pairs)
            if weight
        ]
        self.taps = tuple(pair.of_student for pair in self.pairs if pair.of_student)
        self.teacher.taps = tuple(pair.of_teacher for pair in self.pairs if pair.of_teacher)
        if student.built:
            self.student_is_built()

    def student_is_built(self) -> None:
        """Makes the dense layers, whose weights are trained with the student's."""
        super().student_is_built()
        for pair in getattr(self, "pairs", ()):
            pair.connect(self)

    def _check_losses(self, losses: Sequence[DistillationLoss]) -> None:
        weights = self.distillation_loss_weights
        if not 0 < len(losses) == len(weights):
            raise ValueError(
                "`distillation_loss_weights` must have one weight for each loss. "
                f"Received: {len(weights)} weights for {len(losses)} losses. Expected: at least "
                "one loss, and a list of as many numbers."
            )
        for loss, weight in zip(losses, weights, strict=True):
            check_distillation(temperature=1.0, distillation_loss_weights=weight)
            nested = isinstance(getattr(loss, "loss", None), list | tuple | dict)
            reduction = getattr(getattr(loss, "loss", None), "reduction", "mean")
            mean = reduction in ("sum_over_batch_size", "mean")
            if not isinstance(loss, DistillationLoss) or nested or not mean:
                raise ValueError(
                    "`distillation_losses` must be losses of `keras.distillation` for one output. "
                    f"Received: {loss!r}, with loss={getattr(loss, 'loss', None)!r}. Expected: for "
                    "example `keras.distillation.FeatureDistillation('mse', 'layer', 'layer')`, "
                    "with a loss that is a mean."
                )

    def guidance(self, step: Step) -> Guidance | None:
        """sum_k weight_k l_k(teacher, student)."""
        if not self.pairs:
            return None
        check_one_class(self)
        logits, features = self.teacher.predict_with_features(step)
        total = 0.0
        for pair in self.pairs:
            teacher = features[pair.of_teacher] if pair.of_teacher else logits
            student = step.features[pair.of_student] if pair.of_student else step.logits
            total = total + pair(teacher, student, is_weighted=step.sample_weight is not None)
        return Guidance(total)
