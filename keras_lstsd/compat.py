"""Every private attribute of Keras that this library uses, each behind one function.

`tests/test_compat.py` has a test for each, which fails with a clear message when Keras moves it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
from keras.src.backend.common.masking import get_keras_mask
from keras.src.losses.loss import reduce_weighted_values
from keras.src.models.functional import Functional


def reduce_loss(values: Any, sample_weight: Any, mask: Any, reduction: str | None) -> Any:
    """Reduces losses per sample as `keras.losses.Loss` does: same mask, weights and divisor."""
    return reduce_weighted_values(values, sample_weight, mask, reduction, dtype="float32")


def mask_of(tensor: Any) -> Any:
    """The mask that Keras's layers attach to their outputs, or None."""
    # Tracers of JAX take no attributes; Keras keeps theirs elsewhere.
    return get_keras_mask(tensor)


def logits_of(probabilities: Any) -> Any:
    """The input of the softmax or sigmoid that made a tensor, or None where Keras dropped it."""
    return getattr(probabilities, "_keras_logits", None)


def layers_of(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and all layers inside it."""
    return layer._flatten_layers()


def seeds_of(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """A layer's own random generators."""
    return layer._seed_generators


def own_metrics(student: keras.Model) -> Iterable[keras.Metric]:
    """Metrics that a student sets as its attributes; Keras skips them inside another model."""
    for layer in layers_of(student):
        if isinstance(layer, keras.Model):
            yield from layer._metrics


def is_of_keras(cls: type) -> bool:
    """Whether Keras itself defines a class."""
    return cls.__module__.startswith("keras.src")


def set_value(variable: keras.Variable, value: Any) -> None:
    """Replaces what a variable stores, in whatever place and form; Keras would move it back."""
    variable._value = value


def forget_restored_epoch(model: keras.Model) -> None:
    """Clears where `BackupAndRestore` resumed; Keras would start the next `fit` there as well."""
    model._initial_epoch = None


def backup_paths(backup: keras.callbacks.BackupAndRestore) -> list[tuple[Path, Path]]:
    """Files of weights and of their epoch: the newest pair, then the pair before."""
    return [
        (Path(backup._weights_path), Path(backup._training_metadata_path)),
        (Path(backup._prev_weights_path), Path(backup._prev_training_metadata_path)),
    ]


def compiled_loss(model: keras.Model) -> Any:
    """The `loss` that was given to `compile`, or None."""
    return getattr(model._compile_loss, "_user_loss", None)


def loss_weights(model: keras.Model) -> Any:
    """The `loss_weights` that were given to `compile`, or None."""
    return getattr(model._compile_loss, "_user_loss_weights", None)


def task_loss(model: keras.Model, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """The compiled loss of other outputs than the model's own."""
    return model._compile_loss(y, y_pred, sample_weight)


def update_metrics(model: keras.Model, y: Any, y_pred: Any, share: Any, sample_weight: Any) -> None:
    """Updates the metrics of one output; those that take no weights have the weights `share`."""
    compiled = model._compile_metrics
    if compiled is None:
        return
    if not compiled.built:
        compiled.build(y, y_pred)
    kinds = (compiled._flat_metrics, share), (compiled._flat_weighted_metrics, sample_weight)
    for metrics, weights in kinds:
        for metric in filter(None, metrics):
            metric.update_state(y, y_pred, weights)


def added_losses(model: keras.Model, network: keras.Model) -> Any:
    """The losses that a network added in its last call, and those of its regularizers."""
    return sum(model._aggregate_additional_loss(loss) for loss in network.losses)


def is_functional(network: keras.Model) -> bool:
    """Whether a network's forward pass is its graph of layers, and no code of its own."""
    graph = isinstance(network, Functional) and type(network).call is Functional.call
    return graph or (isinstance(network, keras.Sequential) and network.built)


def run_graph(network: keras.Model, inputs: Any, call: Callable) -> Any:
    """The outputs of a functional model whose layers are called as `call(layer, *args)`."""
    return network._run_through_graph(inputs, operation_fn=lambda layer: layer, call_fn=call)
