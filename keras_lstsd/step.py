"""What a training step shows to the hooks of a method, and what they return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import keras

from keras_lstsd.losses import log_softmax
from keras_lstsd.outputs import hard_classes_of
from keras_lstsd.tables import SampleTable, mix_rows, read

Tensor = Any


class Step(NamedTuple):
    """One training step as the hooks of a method see it.

    Where a student has classes at several positions of a sample (tokens, pixels, labels), each
    position takes the place of a sample here: see `keras_lstsd.positions`.

    Args:
        inputs: the student's inputs, as the data has them.
        y: labels, as the compiled loss takes them: `[batch]` or `[batch, classes]`.
            `outputs.classes_of(step.y, num_classes)` gives the class of each.
        sample_index: integers `[batch]`, rows of the tables; None where the data has no index.
        logits: the student's logits (or log-probabilities), float32 `[batch, classes]`.
        mask: the mask that Keras propagates to the student's output; None without one.
        sample_weight: float32 weights `[batch]`; None without weights.
        mixing: float32 `[batch, batch]`, row i with the weights of the samples in input i; None
            where inputs are not mixed.
        index_validated: whether `fit` checked that no index is repeated or out of range.
        features: the outputs of the layers that the method names in `self.taps`, by name.
    """

    inputs: Any
    y: Any
    sample_index: Tensor | None
    logits: Tensor
    mask: Tensor | None = None
    sample_weight: Tensor | None = None
    mixing: Tensor | None = None
    index_validated: bool = False
    features: Mapping[str, Tensor] = MappingProxyType({})

    def read(self, tables: SampleTable | list[SampleTable]) -> tuple[Tensor, Tensor]:
        """Rows of the samples `[batch, classes]`, and which are known; for a list: `tables.read`.

        Where inputs are mixed from several samples, their rows are mixed with the same weights.
        """
        first, like = keras.tree.flatten(tables)[0], None
        temperature = first.temperature
        if first.top_k is not None and self.mixing is None:
            like = log_softmax(self.logits, temperature)
        log_probs, known = read(self.sample_index, tables, self.index_validated, like)
        if self.mixing is None:
            return log_probs, known
        log_probs, known = mix_rows(self.mixing, log_softmax(log_probs, 1 / temperature), known)
        return log_softmax(log_probs, temperature), known

    def write(self, table: SampleTable, log_probs: Tensor) -> None:
        """Writes log-probabilities `[batch, classes]` to the samples' rows of a table."""
        labels = None
        if table.top_k is not None:
            labels = hard_classes_of(self.y, log_probs.shape[-1])
        table.write(self.sample_index, log_probs, self.index_validated, labels)


@dataclass(frozen=True)
class Guidance:
    """What a method adds to the loss of a step.

    Args:
        loss: float32 `[batch]`, weighted by the method; 0 for a sample without a teacher.
        task_weight: factor of each sample's compiled loss, a number or `[batch]`.
        logs: values per sample `[batch]` by name; the method's `logged` has "distillation_loss" and
            these names. The log of an epoch is their mean over its samples.
        memory: what `record` needs from `guidance`.
    """

    loss: Tensor
    task_weight: Tensor | float = 1.0
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Any = None
