"""Long Short-Term Sample Distillation (Jiang et al., AAAI 2020)."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_distillation, count
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import kl_of_softened, log_softmax
from keras_lstsd.schedules import ramp_up
from keras_lstsd.step import Guidance, Step
from keras_lstsd.tables import SampleTable


@keras.saving.register_keras_serializable("keras_lstsd")
class LSTSD(Distillation):
    """Long Short-Term Sample Distillation: each sample has two teachers from the model's past.

    From mini-generation 1 on, with the student's prediction p, all at temperature T:

    `loss = compiled + long_weight * KL[p || q_long] + short_weight * KL[p || q_short]`

    - q_short: the model's prediction for the sample in the previous epoch;
    - q_long: its prediction in the last epoch of the previous mini-generation;

    each from the forward pass that trained on the sample, augmentation and dropout included. In
    mini-generation 0 the loss is the compiled loss only. A sample that an epoch skipped keeps its
    latest row. A sample that was never drawn has no teacher and adds 0.

    Logs: `distillation_loss` (both terms, weighted), `long_term_loss` and `short_term_loss` (mean
    KL in nats, unweighted; 0 where the weight is 0), `teacher_coverage` (share of the samples
    that had a teacher).

    Memory: 3 tables of `num_samples x classes`, 12 bytes an entry (6 with float16).

    Args:
        student: a Keras classifier; see `Distillation`.
        num_samples: N, size of the training set. None: `fit` counts the samples of arrays and of
            data sets that `keras_lstsd.data.with_sample_index` numbered.
        mini_generation_epochs: E, epochs in a mini-generation. 6 in the paper's experiments.
        long_weight: weight of the long-term teacher, at least 0. 2.4 by the paper's grid search.
        short_weight: weight of the short-term teacher, at least 0. 4.0 by the same search.
            A weight of 0 gives the paper's ablation "w/o Long" or "w/o Short" (Table 3).
        temperature: T > 0, for both sides. 2 on CIFAR-100; 1 for a few classes (GLUE).
        kl: `"reverse"`, KL[student || teacher] as printed in Eq. 1, or `"forward"`.
        ramp: R epochs over which both weights grow; see `schedules.ramp_up`. 0 is the paper's
            constant weights. Use 40 where training is short, or where the network still learns
            when it ends, such as the fine-tuning of a pre-trained network.
        table_dtype: `"float32"` or `"float16"`, of rows of all classes.
        top_k: how many of the largest probabilities of a row are stored; None for all. For many
            classes; see `SampleTable`.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for a negative weight, a temperature that is not positive, a mini-generation
            below 1 epoch, an unknown `kl` or `table_dtype`; see also `Distillation`.

    Example:
        >>> model = keras_lstsd.LSTSD(student)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)
        >>> model.student.save("student.keras")

    Source: Jiang et al. 2020, Eq. 1 and Algorithm 1; weights, T and E from "Experimental Setup".

    Differences from the paper: teachers change at an epoch boundary, where Algorithm 1 writes a
    sample's row at once. The two differ only for a sample drawn twice in an epoch, or not at all.
    """

    needs_sample_index = True
    logged = ("distillation_loss", "long_term_loss", "short_term_loss", "teacher_coverage")

    def __init__(
        self,
        student: keras.Model,
        num_samples: int | None = None,
        mini_generation_epochs: int = 6,
        long_weight: float = 2.4,
        short_weight: float = 4.0,
        temperature: float = 2.0,
        kl: str = "reverse",
        ramp: int = 0,
        table_dtype: str = "float32",
        top_k: int | None = None,
        **options: Any,
    ):
        super().__init__(
            student,
            mini_generation_epochs=mini_generation_epochs,
            num_samples=num_samples,
            **options,
        )
        self._set_loss(long_weight, short_weight, temperature, kl, ramp)
        self.table_dtype = table_dtype
        self.top_k = top_k
        self.short_term = SampleTable(table_dtype, temperature, top_k, "short_term")
        self.long_term = SampleTable(table_dtype, temperature, top_k, "long_term")
        self.pending = SampleTable(table_dtype, temperature, top_k, "pending")

    def _set_loss(
        self, long_weight: float, short_weight: float, temperature: float, kl: str, ramp: int
    ):
        check_distillation(temperature, kl, long_weight=long_weight, short_weight=short_weight)
        self.long_weight = long_weight
        self.short_weight = short_weight
        self.temperature = temperature
        self.kl = kl
        self.ramp = count("ramp", ramp, at_least=0)

    def guidance(self, step: Step) -> Guidance | None:
        """long_weight KL[p || q_long] + short_weight KL[p || q_short], Eq. 1."""
        weights = {"long_term": self.long_weight, "short_term": self.short_weight}
        weights = {name: weight for name, weight in weights.items() if weight}
        if not weights:
            return None
        # All teachers in one tensor: half the operations. TensorFlow would also round a sum of two
        # separate divergences differently from one process to the next.
        teachers, known = self.predict_teachers([getattr(self, name) for name in weights], step)
        terms = kl_of_softened(step.logits, teachers, self.temperature, self.kl, known)
        zeros = ops.zeros_like(step.logits[:, 0])
        logs = {"long_term_loss": zeros, "short_term_loss": zeros}
        logs["teacher_coverage"] = ops.any(known, axis=(0, -1))
        names = (f"{name}_loss" for name in weights)
        logs.update(zip(names, ops.unstack(terms, len(weights)), strict=True))
        factors = ops.convert_to_tensor([[weight] for weight in weights.values()], "float32")
        factors = factors * ramp_up(self._epoch, self.ramp)
        return Guidance(ops.sum(factors * terms, axis=0), logs=logs)

    def predict_teachers(self, teachers: list, step: Step) -> tuple[Any, Any]:
        """Teachers' log-probabilities at T, `[teachers, batch, classes]`, and which are known."""
        return step.read(teachers)

    def record(self, step: Step, guidance: Guidance | None) -> None:
        """z_i <- p(x_i), Algorithm 1, lines 14 and 16."""
        step.write(self.pending, log_softmax(step.logits, self.temperature))

    def on_epoch_start(self, epoch: int) -> None:
        # Mini-generation 0 has no teachers: their tables stay unwritten until its end.
        if epoch >= self.mini_generation_epochs:
            self.short_term.copy_from(self.pending)

    def on_stage_start(self, stage: int) -> None:
        if stage > 0:
            self.long_term.copy_from(self.pending)
