"""What a student's outputs and labels mean: classes, logits or probabilities."""

from typing import Any

import keras
from keras import ops

from keras_lstsd import compat
from keras_lstsd.losses import SMALLEST
from keras_lstsd.tables import row_numbers

# Rounding error of a probability near 1, the floor of its complement.
ROUNDING = 2.0**-24


def shape(student: keras.Model) -> tuple[int | None, ...]:
    """Sizes of the student's output `[batch, ..., units]` without the batch.

    The last axis has the units of the classes; one unit separates two classes.

    Raises:
        ValueError: when there is not one such output, or it is a softmax over one unit.
    """
    if isinstance(getattr(student, "output", None), dict):
        sizes = {name: tuple(tensor.shape) for name, tensor in student.output.items()}
    elif hasattr(student, "output_shape"):
        sizes = student.output_shape
    else:
        sizes = _traced_output_shape(student)
    flat = isinstance(sizes, tuple) and all(n is None or isinstance(n, int) for n in sizes)
    if not flat or len(sizes) < 2 or sizes[-1] is None or 0 in sizes[1:]:
        raise ValueError(
            "The student must be a classifier with one output tensor. "
            f"Received: output shape {sizes}. Expected: (batch, classes), or (batch, ..., classes) "
            "with classes at each token or pixel; of several outputs pass the name of one as "
            "`guided_output`, or write `keras.Model(student.inputs, student.outputs[0])`."
        )
    if sizes[-1] == 1 and last_activation(student) == "softmax":
        raise ValueError(
            "A softmax over one unit is always 1. Received: a student that ends in softmax with "
            "1 unit. Expected: `Dense(2, activation='softmax')` or "
            "`Dense(1, activation='sigmoid')`."
        )
    return sizes[1:]


def ends_in_logits(student: keras.Model) -> bool:
    """Whether the student's outputs are logits, by its last layer.

    Raises:
        ValueError: when the last layer does not show it.
    """
    activation = last_activation(student)
    if activation in ("softmax", "sigmoid"):
        return False
    if activation == "linear":
        return True
    raise ValueError(
        "The last layer does not show whether the student's outputs are logits. "
        f"Received: last activation {activation!r}. Expected: a last layer with softmax, sigmoid "
        "or no activation; otherwise pass `from_logits=True` (logits) or "
        "`from_logits=False` (probabilities)."
    )


def last_activation(student: Any) -> str | None:
    """Name of the activation of the output layer, or None where it is not one layer."""
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
    # A lone linear activation (often a cast to float32) hides the layer before it.
    if isinstance(layer, keras.layers.Activation) and activation == "linear":
        return None
    return activation


def logits(
    outputs: Any, from_logits: bool, activation: str | None = None, multi_label: bool = False
) -> Any:
    """The student's outputs as float32 logits (or log-probabilities) `[batch, ..., classes]`.

    Those of a multi-label student have two classes for each label. Where Keras keeps the input of
    the last activation, which was not rounded, that is used.
    """
    one_unit = multi_label or outputs.shape[-1] == 1
    kept = compat.logits_of(outputs)
    if kept is not None and (activation == "softmax" or (activation == "sigmoid" and one_unit)):
        outputs, from_logits = kept, True
    if multi_label:
        outputs = ops.expand_dims(outputs, -1)
    # What underflows in float16 is known only up to float16's rounding.
    is_half = keras.backend.standardize_dtype(outputs.dtype) == "float16"
    outputs = ops.cast(outputs, "float32")
    if from_logits:
        zeros = ((0, 0),) * (len(outputs.shape) - 1)
        return ops.pad(outputs, (*zeros, (1, 0))) if one_unit else outputs
    log_probs = ops.log(ops.maximum(outputs, ROUNDING if is_half else SMALLEST))
    if one_unit:
        complement = ops.log(ops.maximum(1 - outputs, ROUNDING))
        return ops.concatenate([complement, log_probs], axis=-1)
    return log_probs


def logits_of(
    network: keras.Model, y_pred: Any, from_logits: bool, multi_label: bool = False
) -> Any:
    """Outputs of a network, or of a copy of it, as float32 logits `[batch, ..., classes]`."""
    activation = None if from_logits else last_activation(network)
    return logits(y_pred, from_logits, activation, multi_label)


def classes_of(y: Any, num_classes: int) -> Any:
    """The class of each label, int32 `[batch]`; out of range where a label is missing.

    One-hot and soft labels `[batch, classes]` have the class of their largest share, soft labels
    of one unit the nearer one. An all-zero row and NaN are missing, and so is any class number
    outside `[0, classes)`.
    """
    y = _numbers(y)
    if is_one_hot(y, num_classes):
        # A sum, as Keras takes no maximum of an empty batch; it is NaN where a share is.
        has_label = ops.sum(ops.cast(y, "float32"), axis=-1) > 0
        return ops.where(has_label, ops.cast(ops.argmax(y, axis=-1), "int32"), -1)
    y = ops.reshape(y, (-1,))
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype)):
        return ops.cast(ops.where(ops.isfinite(y), ops.floor(y + 0.5), -1.0), "int32")
    return row_numbers(y, num_classes)


def hard_classes_of(y: Any, num_classes: int) -> Any:
    """As `classes_of`, but -1 for soft and multi-hot labels, which may change on purpose."""
    y = _numbers(y)
    classes = classes_of(y, num_classes)
    if is_one_hot(y, num_classes):
        shares = ops.cast(y, "float32")
        is_hard = ops.any(shares == 1, axis=-1) & (ops.sum(shares, axis=-1) == 1)
    else:
        values = ops.reshape(ops.cast(y, "float32"), (-1,))
        is_hard = values == ops.floor(values)
    return ops.where(is_hard, classes, -1)


def _numbers(y: Any) -> Any:
    """Labels as a tensor of numbers; of bool as integers."""
    y = ops.convert_to_tensor(y)
    is_bool = keras.backend.standardize_dtype(y.dtype) == "bool"
    return ops.cast(y, "int32") if is_bool else y


def is_one_hot(y: Any, num_classes: int) -> bool:
    """Whether labels are shares of the classes `[batch, classes]`."""
    return len(y.shape) == 2 and y.shape[-1] == num_classes


def input_signature(student: keras.Model) -> list:
    """Specs of the student's inputs, for a serving endpoint; those of a dict have its keys."""
    if isinstance(student, keras.Sequential):
        return [_input_spec((), tensor) for tensor in student.inputs]
    inputs = student.input if hasattr(student, "output_names") else _symbolic_inputs(student)
    specs = [_input_spec(path, tensor) for path, tensor in keras.tree.flatten_with_path(inputs)]
    return [keras.tree.pack_sequence_as(inputs, specs)]


def _symbolic_inputs(student: keras.Model) -> Any:
    """Inputs of a subclassed model, which records only the shapes of its first inputs."""
    inputs = keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape[1:]), student.input_dtype, name="inputs"),
        student.get_build_config()["input_shape"],
    )
    # Keras stores a dict as a type of its own, which JAX does not know.
    return dict(inputs) if isinstance(inputs, dict) else inputs


def _traced_output_shape(student: keras.Model) -> Any:
    outputs = student(_symbolic_inputs(student))
    return keras.tree.map_structure(lambda tensor: tensor.shape, outputs)


def _input_spec(path: tuple, tensor: Any) -> keras.layers.InputSpec:
    # A client sends arrays under these names; Keras's own name of an input may be a mere number.
    name = "_".join(key for key in path if isinstance(key, str)) or tensor.name
    return keras.layers.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=name)
