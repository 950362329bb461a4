"""Snapshot Ensembles (Huang et al., ICLR 2017)."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_one_output, count
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import SMALLEST
from keras_lstsd.snapshot import Snapshot


@keras.saving.register_keras_serializable("keras_lstsd")
class SnapshotEnsemble(Distillation):
    """Keeps the network at the end of each learning-rate cycle, and averages their predictions.

    Training is plain, with a cyclic cosine learning rate of one cycle per mini-generation.
    The output of `predict`, `evaluate` and `export` is the mean of the snapshots' probabilities,

    `p(x) = 1/m sum_j softmax(z_j(x))`,

    over the last m = at most `keep` snapshots; the student as it stands counts as the latest, so
    after the last epoch it is the last cycle's. (For students with logits the output is ln p.) Each
    snapshot costs one set of weights, and one forward pass of each prediction.

    Args:
        student: a Keras classifier; see `Distillation`.
        mini_generation_epochs: epochs of a cycle. 40 in Jiang et al. 2020 and Yang et al. 2019.
        keep: m, how many networks are averaged at most. 5 are all of 164 epochs.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: when `keep` is below 1.

    Example:
        >>> steps = math.ceil(len(x_train) / 128)
        >>> rate = keras_lstsd.schedules.CyclicCosine(0.1, 40 * steps, total_steps=164 * steps)
        >>> model = keras_lstsd.SnapshotEnsemble(student)
        >>> model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: Huang et al. 2017; Jiang et al. 2020, "Baselines".

    Differences from the papers: during training the present student is averaged too, so that
    validation has a result in the first cycle.
    """

    def __init__(
        self,
        student: keras.Model,
        mini_generation_epochs: int = 40,
        keep: int = 5,
        **options: Any,
    ):
        super().__init__(student, mini_generation_epochs=mini_generation_epochs, **options)
        check_one_output(self)
        self.keep = count("keep", keep)
        self.snapshots = [Snapshot(name=f"snapshot_{number}") for number in range(keep - 1)]

    def on_stage_start(self, stage: int) -> None:
        if stage > 0 and self.snapshots:
            self.snapshots[(stage - 1) % len(self.snapshots)].take()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        outputs = super().call(inputs, training=training)
        if training or not self.has_memory or not self.snapshots:
            return outputs
        x = self.inputs_of(inputs)
        total, count = self._probabilities(outputs), 1.0
        for snapshot in self.snapshots:
            share = ops.cast(snapshot.known, "float32")
            total = total + share * self._probabilities(snapshot(x))
            count = count + share
        return self._outputs(total / count)

    def _probabilities(self, outputs: Any) -> Any:
        outputs = ops.cast(outputs, "float32")
        if not self.from_logits:
            return outputs
        return ops.sigmoid(outputs) if self.student_units == 1 else ops.softmax(outputs)

    def _outputs(self, probabilities: Any) -> Any:
        """Probabilities, or their logarithms where the student's outputs are logits."""
        if not self.from_logits:
            return probabilities
        log_probs = ops.log(ops.maximum(probabilities, SMALLEST))
        if self.student_units == 1:
            return log_probs - ops.log(ops.maximum(1 - probabilities, SMALLEST))
        return log_probs
