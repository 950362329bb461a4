"""The compiled loss of the guided output: its name, weight and reduction, and the checks of it."""

from typing import Any

import keras

from keras_lstsd import compat, outputs


def of(model: Any) -> Any:
    """The loss that was given to `compile`, or None."""
    return _of_one(model, compat.compiled_loss(model))


def weight(model: Any) -> float:
    """Its weight in `loss_weights`, by default 1."""
    value = _of_one(model, compat.loss_weights(model))
    return 1.0 if value is None else value


def _of_one(model: Any, values: Any) -> Any:
    value = model.of_guided(values)
    if isinstance(value, list | tuple | dict):
        (value,) = keras.tree.flatten(value) or (None,)
    return value


def reduction(model: Any) -> str | None:
    """Its reduction over a batch."""
    return getattr(of(model), "reduction", "sum_over_batch_size")


def name_of(model: Any) -> str:
    """Keras's name of a compiled loss, as "binary_crossentropy"; empty for none or a user's own."""
    loss = of(model)
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    if isinstance(loss, keras.losses.Loss):
        kind = next(filter(compat.is_of_keras, type(loss).__mro__))
        words = [letter if letter.islower() else f"_{letter.lower()}" for letter in kind.__name__]
        return "".join(words).strip("_")
    name = getattr(loss, "__name__", "")
    # A user's function may have the name of one of Keras's.
    return name if getattr(keras.losses, name, None) is loss else ""


def check(model: Any) -> None:
    """Rejects a compiled loss that contradicts the student's outputs.

    Raises:
        ValueError: for logits taken as probabilities or the reverse, for a loss of one class each
            on the outputs of several labels, for a regression loss on one linear unit.
    """
    loss = of(model)
    function = keras.losses.get(loss) if isinstance(loss, str) else loss
    name, units = name_of(model), model.student_units
    activation = outputs.last_activation(model.head())
    many = model.positions.multi_label
    if (many and "categorical" in name) or (
        not many and name.startswith("binary") and units > 1 and activation != "softmax"
    ):
        raise ValueError(
            "The compiled loss contradicts the student's outputs. "
            f"Received: loss={loss!r} for {model.positions.labels if many else units} units that "
            f"{'are labels of their own' if many else 'were classes before'}. Expected: for "
            "several labels a sigmoid or logits with a binary crossentropy, for one class of many "
            "a softmax or logits with a categorical one; wrap the student again after a change."
        )
    errors = ("squared", "absolute", "absolute_percentage", "squared_logarithmic")
    regression = (*(f"mean_{error}_error" for error in errors), "huber", "log_cosh")
    if name in regression and units == 1 and activation == "linear":
        raise ValueError(
            "A regression cannot be guided: guidance compares probabilities of classes. "
            f"Received: one linear unit with loss={loss!r}. Expected: a classifier, for example "
            "one logit with `keras.losses.BinaryCrossentropy(from_logits=True)`."
        )
    expected = None
    if isinstance(function, keras.losses.Loss):
        # A user's class may have no config.
        try:
            expected = function.get_config().get("from_logits")
        except NotImplementedError:
            expected = None
    elif name.endswith("crossentropy"):
        expected = False
    if expected is not None and expected != model.from_logits:
        kind = "logits" if model.from_logits else "probabilities"
        raise ValueError(
            f"The student's outputs are {kind}, but the compiled loss has from_logits={expected}. "
            f"Received: loss={loss!r}. Expected: a loss with from_logits={model.from_logits}, for "
            "example `loss=keras.losses.SparseCategoricalCrossentropy("
            f"from_logits={model.from_logits})`."
        )


def check_task_weight(reduction: str | None) -> None:
    """Rejects a reduction under which weighting the compiled loss would change its divisor.

    Raises:
        ValueError: for `"mean_with_sample_weight"`.
    """
    if reduction == "mean_with_sample_weight":
        raise ValueError(
            "This method weighs the compiled loss per sample, which would change the divisor of "
            "`mean_with_sample_weight`. Received: a loss with "
            "reduction='mean_with_sample_weight'. Expected: a loss with "
            "`reduction='sum_over_batch_size'`."
        )
