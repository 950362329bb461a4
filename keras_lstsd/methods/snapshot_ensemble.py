"""Snapshot Ensembles (Huang et al., ICLR 2017)."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.arguments import count
from keras_lstsd.losses import SMALLEST
from keras_lstsd.self_distillation import SelfDistillation
from keras_lstsd.snapshots import Snapshot


@keras.saving.register_keras_serializable("keras_lstsd")
class SnapshotEnsemble(SelfDistillation):
    """Keeps the network at the end of each learning-rate cycle, and lets all of them vote.

    Training is plain, with a cyclic cosine learning rate of one cycle per mini-generation.
    `predict`, `evaluate` and `export` put out the mean of the snapshots' probabilities,

    `p(x) = 1/m sum_j softmax(z_j(x))`,

    over the last m = at most `keep` snapshots; the student as it stands counts as the latest, so
    after the last epoch it is the last cycle's. (Logits students put out ln p.) Each snapshot
    costs one set of weights, and one forward pass of each prediction.

    Args:
        student: a Keras classifier; see `SelfDistillation`.
        num_samples: N, size of the training set.
        mini_generation_epochs: epochs of a cycle. 40 in Jiang et al. 2020 and Yang et al. 2019.
        keep: m, how many networks vote at the most. 5 are all of 164 epochs.
        from_logits: whether the student puts out logits. None finds out from its last layer.
        name: name of the model.

    Raises:
        ValueError: when `keep` is below 1.

    Example:
        >>> steps = math.ceil(len(x_train) / 128)
        >>> rate = keras_lstsd.schedules.CyclicCosine(0.1, 40 * steps, total_steps=164 * steps)
        >>> model = keras_lstsd.SnapshotEnsemble(student, num_samples=len(x_train))
        >>> model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
        >>> model.fit(x_train, y_train, batch_size=128, epochs=164)

    Source: Huang et al. 2017; Jiang et al. 2020, "Baselines".

    Differences from the papers: in mid-training the student as it stands votes too, so that
    validation has something to show in the first cycle.
    """

    def __init__(
        self,
        student: keras.Model,
        num_samples: int,
        mini_generation_epochs: int = 40,
        keep: int = 5,
        from_logits: bool | None = None,
        name: str | None = None,
    ):
        self.keep = count("keep", keep)
        super().__init__(student, num_samples, mini_generation_epochs, from_logits, name)

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self.snapshots = [
            Snapshot(self.student, name=f"snapshot_{number}") for number in range(self.keep - 1)
        ]

    def on_generation_edge(self, generation: int) -> None:
        if self.snapshots:
            self.snapshots[(generation - 1) % len(self.snapshots)].take(self.student)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        outputs = super().call(inputs, training=training)
        if training or not self.snapshots:
            return outputs
        x = self.inputs_of(inputs)
        total, voters = self._probabilities(outputs), 1.0
        for snapshot in self.snapshots:
            votes = ops.cast(snapshot.known, "float32")
            total = total + votes * self._probabilities(snapshot.outputs(self.student, x))
            voters = voters + votes
        return self._outputs(total / voters)

    def _probabilities(self, outputs: Any) -> Any:
        outputs = ops.cast(outputs, "float32")
        if not self.from_logits:
            return outputs
        return ops.sigmoid(outputs) if outputs.shape[-1] == 1 else ops.softmax(outputs)

    def _outputs(self, probabilities: Any) -> Any:
        """Probabilities as outputs of the student's kind."""
        if not self.from_logits:
            return probabilities
        log_probs = ops.log(ops.maximum(probabilities, SMALLEST))
        if probabilities.shape[-1] == 1:
            return log_probs - ops.log(ops.maximum(1 - probabilities, SMALLEST))
        return log_probs
