"""Labels that stop counting: those that the training itself finds wrong."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keras import ops

from keras_lstsd import outputs
from keras_lstsd.step import Guidance, Step
from keras_lstsd.tables import Table, clamp_index, in_range, padded
from keras_lstsd.variables import gather


def warn_of_most(model: Any, logs: Mapping[str, float]) -> None:
    """Warns in the first epoch without the dropped labels, where these are the larger part."""
    after = model.drop_issues_after
    if after == model.epoch and logs["dropped_labels"] > 0.5:
        warnings.warn(
            "More than half of the labels do not count any more: the network had not learned "
            f"enough to find wrong ones. Received: drop_issues_after={after}, after which "
            f"{logs['dropped_labels']:.0%} of the labels were dropped. Expected: more epochs, such "
            f"as `drop_issues_after={4 * after}`.",
            stacklevel=2,
        )


class MarginTable(Table):
    """The margin of each sample's label, summed over the first epochs; then labels are dropped.

    A row has the sum and the label's class plus 1, 0 before the first. Of another class than
    before, a label that was corrected, the sum starts again at 0.

    With the logits z of the forward pass that trains on sample i with label y:

    - in epochs 0 to `after - 1`: `m_i <- m_i + z_y - max_(c != y) z_c`;
    - from epoch `after` on: the label counts where `m_i >= 0`.

    8 bytes per sample. A sample without a label adds nothing.
    """

    width = 2

    def __init__(self, after: int, name: str | None = None):
        super().__init__(name=name)
        self.after = after

    def attach(self, model: Any) -> None:
        """Makes the sums for a model's samples.

        Raises:
            ValueError: for a student with several labels of a sample.
        """
        if model.positions.multi_label:
            raise ValueError(
                "A label of several of a sample cannot be dropped alone: the compiled loss is "
                f"their mean. Received: drop_issues_after={self.after} for "
                f"{model.positions.labels} labels. Expected: to leave it out; "
                "`TrainingDynamics(y, per_position=True)` finds such labels."
            )
        self._make_rows(model.num_rows, self.width, "zeros", "float32")
        self.num_classes = model.num_classes
        self.built = True

    def bytes_for(self, model: Any) -> int:
        """Memory of the sums."""
        return 4 * self.width * padded(model.num_rows)

    def drop(self, step: Step, guidance: Guidance | None, epoch: Any) -> Guidance:
        """The guidance of a step in which the labels that do not count have a weight of 0."""
        if step.mixing is not None:
            raise ValueError(
                "Labels are dropped only where an input has one label. Received: MixUp or CutMix, "
                f"with drop_issues_after={self.after}. Expected: augmentation without them."
            )
        index, valid = clamp_index(step.sample_index, self.num_samples)
        sums, seen = ops.unstack(gather(self.rows, index), 2, axis=1)
        classes, decided = outputs.classes_of(step.y, self.num_classes), epoch >= self.after
        given = ops.cast(classes + 1, "float32")
        sums = ops.where(seen == given, sums, 0.0)
        added = ops.where(decided, 0.0, self._margins(step.logits, classes))
        rows = ops.stack([sums + added, given], axis=1)
        self.write(step.sample_index, rows, step.index_validated)
        dropped = ops.cast(decided & valid & (sums < 0), "float32")
        if guidance is None:
            guidance = Guidance(ops.zeros_like(dropped))
        return replace(
            guidance,
            task_weight=guidance.task_weight * (1 - dropped),
            logs={**guidance.logs, "dropped_labels": dropped},
        )

    def _margins(self, logits: Any, classes: Any) -> Any:
        """Of labels, float32 `[batch]`; 0 without a label or finite logits."""
        of_label = ops.one_hot(classes, self.num_classes, dtype="bool")
        logits = ops.stop_gradient(logits)
        given = ops.sum(ops.where(of_label, logits, 0.0), axis=-1)
        margins = given - ops.max(ops.where(of_label, -float("inf"), logits), axis=-1)
        return ops.where(in_range(classes, self.num_classes) & ops.isfinite(margins), margins, 0.0)
