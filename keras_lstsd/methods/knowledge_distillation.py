"""Knowledge distillation from a given teacher (Hinton et al., 2015)."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_distillation, check_share
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import cross_entropy, log_softmax
from keras_lstsd.step import Guidance, Step
from keras_lstsd.tables import SampleTable
from keras_lstsd.teachers import Given, set_teacher


@keras.saving.register_keras_serializable("keras_lstsd")
class KnowledgeDistillation(Distillation):
    """A given network, usually a larger one, teaches the student.

    With the teacher's logits t and the student's logits s:

    `loss = (1 - alpha) * compiled + alpha * T^2 * H(softmax(t / T), softmax(s / T))`,

    `H(a, b) = -sum_c a_c ln b_c`. The teacher runs in inference mode, a forward pass a step. With
    `stored=True` it is asked once per sample, before the first epoch, and its predictions are
    kept in a table: training then has no teacher's pass.

    Logs: `distillation_loss` (weighted), `teacher_coverage` (below 1 only where it is stored).

    Memory: a copy of the teacher's weights; with `stored=True` instead a table of
    `num_samples x classes`, or of `num_samples x top_k` values (2 bytes) and classes (4 bytes).

    Args:
        student: a Keras classifier; see `Distillation`.
        teacher: a built Keras classifier, a method of keras_lstsd around one, an `Ensemble`, or a
            `teachers.Given`. Its weights are not part of backups.
        alpha: share of the teacher in the loss, in [0, 1]. 0.9 on CIFAR-100, 1 on GLUE.
        temperature: T > 0, for both sides. 4 on CIFAR-100, 1 on GLUE.
        stored: whether the teacher is asked once per sample. It then sees the inputs without
            augmentation, which is not the same where `SampleBatches` augment.
        top_k: with `stored=True`, how many classes of a row are kept; None for all. The student
            shares the rest of the probability among the others; see `top_k.spread`.
        table_dtype: `"float32"` or `"float16"`, of a stored row of all classes.
        teacher_inputs: None, or a function from the student's inputs to the teacher's.
        teacher_from_logits: whether the teacher's outputs are logits. None: decided by its last
            layer.
        num_samples: with `stored=True`, size of the training set. None: `fit` counts the samples.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for an alpha outside [0, 1], a temperature that is not positive, and `top_k`
            without `stored`. Also for a teacher that is not built or has other classes, and for
            one whose last layer does not show what it puts out.

    Example:
        >>> model = keras_lstsd.KnowledgeDistillation(student, teacher)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=64, epochs=240)

    Source: Hinton et al. 2015; Shi et al. 2021 (ProKT), Eq. 1; alpha and T from Tian et al. 2020.

    Differences from the papers: none.
    """

    logged = ("distillation_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Given,
        alpha: float = 0.9,
        temperature: float = 4.0,
        stored: bool = False,
        top_k: int | None = None,
        table_dtype: str = "float16",
        teacher_inputs: Callable | None = None,
        teacher_from_logits: bool | None = None,
        num_samples: int | None = None,
        **options: Any,
    ):
        self.needs_sample_index = stored
        super().__init__(student, num_samples=num_samples, **options)
        check_share("alpha", alpha)
        check_distillation(temperature)
        self.alpha = alpha
        self.temperature = temperature
        self.stored = stored
        self.top_k = top_k
        self.table_dtype = table_dtype
        set_teacher(self, Given, teacher, teacher_inputs, teacher_from_logits)
        self.teacher.runs_in_step = not stored
        if top_k is not None and not stored:
            raise ValueError(
                "`top_k` is of a stored teacher's rows. "
                f"Received: top_k={top_k}, stored=False. Expected: "
                f"`KnowledgeDistillation(student, teacher, stored=True, top_k={top_k})`."
            )
        if stored:
            self._answered = self._counter("answered", 0)
            self.teacher_rows = SampleTable(table_dtype, temperature, top_k, "teacher_rows")

    def guidance(self, step: Step) -> Guidance | None:
        """alpha T^2 H(p_t, q_s), beside (1 - alpha) times the compiled loss."""
        if self.alpha == 0:
            return None
        teacher, known = self.predict_teacher(step)
        loss = cross_entropy(step.logits, teacher, self.temperature)
        loss = ops.where(known, self.alpha * self.temperature**2 * loss, 0.0)
        task_weight = ops.where(known, 1.0 - self.alpha, 1.0)
        return Guidance(loss, task_weight, {"teacher_coverage": known})

    def predict_teacher(self, step: Step) -> tuple[Any, Any]:
        """The teacher's log-probabilities at T `[batch, classes]`; which samples have them."""
        if self.stored:
            rows, known = step.read(self.teacher_rows)
            return rows, known[:, 0]
        rows = log_softmax(self.teacher.predict(step), self.temperature)
        return rows, ops.ones_like(rows[:, 0], dtype="bool")

    def on_epoch_start(self, epoch: int) -> None:
        """Asks the teacher once per sample, unless a backup has its answers."""
        if not self.stored or self.alpha == 0 or int(ops.convert_to_numpy(self._answered)):
            return
        if self.is_augmented:
            warnings.warn(
                "The stored teacher sees the inputs without augmentation. Received: data that is "
                "augmented, with stored=True. Expected: `stored=False` for a teacher that sees "
                "what the student sees.",
                stacklevel=2,
            )
        self.teacher_rows.fill(
            (self.rows_of(index), log_softmax(self.teacher.ask(x), self.temperature))
            for x, index, _ in self.plain_samples()
        )
        self._answered.assign(1)
