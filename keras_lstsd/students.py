"""What a student puts out: classes, logits or probabilities, and what it takes in."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.losses import SMALLEST

# Rounding error of a probability near 1, the floor of its complement.
ROUNDING = 2.0**-24


def num_classes(student: keras.Model) -> int:
    """Classes of the student's output `[batch, units]`; one unit tells two classes apart.

    Raises:
        ValueError: when the output is not of that shape, or is a softmax over one unit.
    """
    if hasattr(student, "output_shape"):
        shape = student.output_shape
    else:
        shape = _traced_output_shape(student)
    flat = isinstance(shape, tuple) and all(n is None or isinstance(n, int) for n in shape)
    if not flat or len(shape) != 2 or shape[1] is None:
        raise ValueError(
            "The student must be a classifier with one output. "
            f"Received: output shape {shape}. Expected: (batch, classes), as "
            "`keras.layers.Dense(num_classes)` after a `Flatten` or a global pooling gives."
        )
    if shape[1] == 1 and last_activation(student) == "softmax":
        raise ValueError(
            "A softmax over one unit is 1 whatever the input. Received: a student that ends in "
            "softmax with 1 unit. Expected: `Dense(2, activation='softmax')` or "
            "`Dense(1, activation='sigmoid')`."
        )
    return max(shape[1], 2)


def ends_in_logits(student: keras.Model) -> bool:
    """Whether the student puts out logits, as far as its last layer tells.

    Raises:
        ValueError: when it does not tell.
    """
    activation = last_activation(student)
    if activation == "linear":
        return True
    if activation and _is_distribution(activation, student.output_shape[-1]):
        return False
    raise ValueError(
        "Whether the student puts out logits or probabilities cannot be told from its last layer. "
        f"Received: last activation {activation!r}. Expected: a last layer with softmax, with no "
        "activation, or with one sigmoid unit; otherwise pass `from_logits=True` (logits) or "
        "`from_logits=False` (probabilities)."
    )


def last_activation(student: Any) -> str | None:
    """Name of the activation that the outputs come from, or None where that is not plain."""
    layer = student
    while isinstance(layer, keras.Model):
        if isinstance(layer, keras.Sequential):
            layer = layer.layers[-1]
        elif len(getattr(layer, "output_names", ())) == 1:
            layers = {inner.name: inner for inner in layer.layers}
            layer = layers.get(layer.output_names[0])
        else:
            return None
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(getattr(layer, "activation", None), "__name__", None)
    # A lone linear activation (a cast to float32, often) hides what came before it.
    if isinstance(layer, keras.layers.Activation) and activation == "linear":
        return None
    return activation


def _is_distribution(activation: str | None, units: int) -> bool:
    """Whether such a last activation gives probabilities of classes that sum to 1."""
    return activation == "softmax" or (activation == "sigmoid" and units == 1)


def logits(outputs: Any, from_logits: bool, activation: str | None = None) -> Any:
    """The student's outputs as float32 logits (or log-probabilities) `[batch, classes]`.

    What went into the last activation, where Keras still has it, was not rounded yet.
    """
    if _is_distribution(activation, outputs.shape[-1]) and hasattr(outputs, "_keras_logits"):
        outputs, from_logits = outputs._keras_logits, True
    # What underflows in float16 is not known to be smaller than its rounding.
    is_half = keras.backend.standardize_dtype(outputs.dtype) == "float16"
    outputs = ops.cast(outputs, "float32")
    one_unit = outputs.shape[-1] == 1
    if from_logits:
        return ops.pad(outputs, ((0, 0), (1, 0))) if one_unit else outputs
    log_probs = ops.log(ops.maximum(outputs, ROUNDING if is_half else SMALLEST))
    if one_unit:
        complement = ops.log(ops.maximum(1 - outputs, ROUNDING))
        return ops.concatenate([complement, log_probs], axis=-1)
    return log_probs


def input_signature(student: keras.Model) -> list:
    """Specs of the student's inputs, for a serving endpoint; those of a dict bear its keys."""
    if isinstance(student, keras.Sequential):
        return [_input_spec((), tensor) for tensor in student.inputs]
    inputs = student.input if hasattr(student, "output_names") else _symbolic_inputs(student)
    specs = [_input_spec(path, tensor) for path, tensor in keras.tree.flatten_with_path(inputs)]
    return [keras.tree.pack_sequence_as(inputs, specs)]


def _symbolic_inputs(student: keras.Model) -> Any:
    """Of a subclassed model, which keeps the shapes of its first inputs alone."""
    inputs = keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape[1:]), student.input_dtype, name="inputs"),
        student.get_build_config()["input_shape"],
    )
    # Keras keeps a dict as one of its own, which JAX does not know.
    return dict(inputs) if isinstance(inputs, dict) else inputs


def _traced_output_shape(student: keras.Model) -> Any:
    outputs = student(_symbolic_inputs(student))
    return keras.tree.map_structure(lambda tensor: tensor.shape, outputs)


def _input_spec(path: tuple, tensor: Any) -> keras.layers.InputSpec:
    # A client sends arrays under these names; Keras's own name of an input may be a mere number.
    name = "_".join(key for key in path if isinstance(key, str)) or tensor.name
    return keras.layers.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=name)
