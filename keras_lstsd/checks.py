"""Checks of arguments and data, with their error messages."""

import inspect
import operator
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lstsd import compat

OVERRIDES = ("train_step", "compute_loss", "compute_metrics")


def count(name: str, value: Any, at_least: int = 1) -> int:
    """The value as a Python integer.

    Raises:
        ValueError: when it is not a whole number of at least `at_least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise ValueError(
            f"`{name}` must be a count. Received: {name}={value!r}. Expected: a whole number of at "
            f"least {at_least}."
        )
    return number


def check_distillation(temperature: float, kl: str = "reverse", **weights: float) -> None:
    """Rejects settings of a distillation loss that make no sense.

    Raises:
        ValueError: for a temperature that is not positive, an unknown direction, a negative weight.
    """
    if not temperature > 0:
        raise ValueError(
            "`temperature` must be positive, as it divides logits. "
            f"Received: temperature={temperature}. Expected: above 0, for example 2.0."
        )
    if kl not in ("reverse", "forward"):
        raise ValueError(
            f"`kl` must be a direction of the divergence. Received: kl={kl!r}. Expected: "
            "'reverse' (KL[student || teacher]) or 'forward' (KL[teacher || student])."
        )
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(
                f"`{name}` must not be negative. Received: {name}={weight}. "
                "Expected: at least 0 (0 leaves that part of the loss out)."
            )


def check_divergence(divergence: str) -> None:
    """Rejects an unknown measure of the distance from a teacher.

    Raises:
        ValueError: for another one than `"kl"` and `"mse"`.
    """
    if divergence not in ("kl", "mse"):
        raise ValueError(
            "`divergence` measures how far the student is from its teacher. "
            f"Received: divergence={divergence!r}. Expected: 'kl' or 'mse'."
        )


def check_momentum(momentum: float) -> None:
    """Rejects a momentum that a moving average cannot have.

    Raises:
        ValueError: for a momentum outside [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(
            "`momentum` must be the share that the moving average keeps. "
            f"Received: momentum={momentum}. Expected: at least 0 and below 1."
        )


def check_share(name: str, value: float) -> None:
    """Rejects a share that is no share.

    Raises:
        ValueError: for a value outside [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(
            f"`{name}` must be a share. Received: {name}={value}. Expected: from 0 to 1."
        )


def check_class_names(class_names: Sequence[str], num_classes: int) -> None:
    """Rejects names that are not one per class, all different.

    Raises:
        ValueError: for a string instead of a list, another number of names, or equal names.
    """
    are_names = not isinstance(class_names, str) and all(
        isinstance(name, str) for name in class_names
    )
    if not are_names or len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            "`class_names` must have one name per class. "
            f"Received: class_names={class_names!r}. Expected: a list of {num_classes} different "
            "strings, in the order of the labels."
        )


def check_student(student: Any, wrapper: type) -> None:
    """Rejects what is not a plain Keras model.

    Raises:
        ValueError: for another object, and for a model that is wrapped already.
    """
    if not isinstance(student, keras.Model) or isinstance(student, wrapper):
        raise ValueError(
            "`student` must be the classifier to train. "
            f"Received: {student!r}. Expected: a plain Keras model with one output of shape "
            "[batch, classes] (the `student` of a model that is wrapped already)."
        )


def stateful_layers(network: keras.Model) -> list[keras.Layer]:
    """The layers of a network, nested ones too, that keep their states between batches."""
    return [layer for layer in compat.layers_of(network) if getattr(layer, "stateful", False)]


def check_teacher_keeps_no_states(network: keras.Model, teacher: str) -> None:
    """Rejects a teacher whose second pass over a batch would begin with the states after it.

    Raises:
        ValueError: for a network with stateful layers.
    """
    names = sorted(layer.name for layer in stateful_layers(network))
    if names:
        raise ValueError(
            f"{teacher} must not keep states between batches, as it would see other states than "
            f"the student. Received: a network with stateful layers {names}. Expected: "
            "`stateful=False`, or a method without a second network, such as DUPS."
        )


def check_used(
    model: Any, has_stages: bool, num_samples: int | None, mini_generation_epochs: int
) -> None:
    """Rejects options of the base class that a method does not use.

    Raises:
        TypeError: for such an option that is not an argument of the method's own either.
    """
    own = inspect.signature(type(model).__init__).parameters
    options = {
        "num_samples": (num_samples, model.needs_sample_index),
        "mini_generation_epochs": (mini_generation_epochs, has_stages),
    }
    for name, (value, is_used) in options.items():
        if value not in (None, 1) and not is_used and name not in own:
            raise TypeError(
                f"{type(model).__name__} does not use `{name}`. Received: {name}={value!r}. "
                f"Expected: to leave it out; see `help({type(model).__name__})`."
            )


def check_one_output(model: Any) -> None:
    """Rejects a guided output of several, for methods that need all of the outputs.

    Raises:
        ValueError: for such an output.
    """
    if model.guided_output is not None:
        raise ValueError(
            f"{type(model).__name__} takes students with one output. "
            f"Received: guided_output={model.guided_output!r}. Expected: a student without other "
            "outputs, `keras.Model(student.inputs, student.outputs[0])`, or another method."
        )


def warn_of_overrides(student: keras.Model) -> None:
    """Warns of methods that a student's class overrides and that the training does not call."""
    own = [name for name in OVERRIDES if _overrides(type(student), name)]
    if own:
        named = " and ".join(f"`{name}`" for name in own)
        warnings.warn(
            f"The student's own {named} will not be called. Received: a student of class "
            f"{type(student).__name__}, which overrides {named}. Expected: a student whose losses "
            "come from `compile`, regularizers and `add_loss`, and whose metrics come from "
            "`compile`; call `self.add_loss(...)` in the student's `call`.",
            stacklevel=3,
        )


def _overrides(cls: type, name: str) -> bool:
    """Whether a class has a method of its own instead of Keras's."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return not compat.is_of_keras(owner)


def check_in_step(data: Any) -> None:
    """Rejects evaluation on batches that the training step augments.

    Raises:
        ValueError: for `SampleBatches` with `on_device` or `layers`.
    """
    if getattr(data, "in_step", False):
        raise ValueError(
            "Batches that the step augments cannot be evaluated. Received: SampleBatches with "
            "`on_device` or `layers` to evaluate or predict on. Expected: arrays, as "
            "`validation_data=(x_test, y_test)`."
        )


def check_sample_index(sample_index: np.ndarray, num_samples: int, method: str) -> None:
    """Rejects indices of arrays that are not integers or have no row.

    Raises:
        ValueError: for other dtypes and shapes, and for an index outside `[0, num_samples)`.
    """
    if sample_index.dtype.kind not in "iu" or sample_index.ndim != 1:
        raise ValueError(
            "`sample_index` must number the samples. "
            f"Received: dtype={sample_index.dtype}, shape={sample_index.shape}. Expected: "
            "integers, one for each sample, as `np.arange(len(x_train))`."
        )
    lowest, highest = sample_index.min(), sample_index.max()
    if lowest < 0 or highest >= num_samples:
        raise ValueError(
            "There are more training samples than rows in the tables. "
            f"Received: sample indices from {lowest} to {highest}. Expected: from 0 to below "
            f"num_samples={num_samples}; write `{method}(student, num_samples={highest + 1})`."
        )


def check_same_samples(before: dict[int, tuple], now: dict[int, tuple]) -> None:
    """Rejects arrays whose row numbers mean other samples than in an earlier `fit`.

    Both arguments map a sample index to checksums of its inputs and its label. A sample whose
    inputs were augmented keeps its label, and one whose label was corrected keeps its inputs.

    Raises:
        ValueError: when inputs and label of a sample index have changed.
    """
    changed = [
        index
        for index in before.keys() & now.keys()
        if before[index][0] != now[index][0] and before[index][1] != now[index][1]
    ]
    if changed:
        raise ValueError(
            "The row numbers of these arrays mean other samples than in the `fit` before, and "
            f"teachers are stored by row. Received: other inputs and labels in {len(changed)} of "
            f"{len(before.keys() & now.keys())} compared rows, the first of them {min(changed)}. "
            "Expected: the same samples in the same order; to leave samples out, pass each its "
            "first row number: `model.fit({'inputs': x[keep], 'sample_index': "
            "np.flatnonzero(keep)}, y[keep])`."
        )


def static_shape(tensor: Any) -> tuple | None:
    """The static shape; None where TensorFlow does not know it, as after a Python function."""
    return None if getattr(tensor.shape, "rank", 1) is None else tuple(tensor.shape)


def check_one_index_each(indices: int, samples: int) -> None:
    """Rejects another number of indices than samples in a batch.

    Raises:
        ValueError: where the two differ.
    """
    if indices != samples:
        raise ValueError(
            "Each sample of a batch needs one index. "
            f"Received: {indices} indices for {samples} samples. Expected: "
            "`sample_index` to be as long as the batch; call `with_sample_index` on single "
            "samples, then `batch`."
        )


def missing_index(x: Any) -> str:
    """The error for training data without sample indices."""
    return (
        "The training data has no sample index, which this method needs. "
        f"Received: x={x}. Expected: x={{'inputs': ..., 'sample_index': int32 (batch,)}}; for a "
        "tf.data.Dataset write `train = keras_lstsd.data.with_sample_index(train)` before "
        "`shuffle` and `batch`, from a PyDataset or generator yield that dict."
    )


def check_labels_place(x: Any, y: Any, needs_sample_index: bool) -> None:
    """Rejects labels beside a data set, and arrays without labels where an index is needed.

    Raises:
        ValueError: when `y` is given with a data set, or missing beside arrays.
    """
    is_dataset = hasattr(x, "element_spec") or isinstance(x, keras.utils.PyDataset)
    if is_dataset and y is not None:
        raise ValueError(
            "`y` must be None when `x` is a data set, which contains the labels. "
            f"Received: x={type(x).__name__}, y={type(y).__name__}. Expected: `model.fit(train)` "
            "with a data set of (x, y), or `model.fit(x_train, y_train)` with arrays."
        )
    if needs_sample_index and y is None and hasattr(x, "shape"):
        raise ValueError(
            "`y` must be given when `x` is an array. "
            f"Received: x={type(x).__name__}, y=None. Expected: `model.fit(x_train, y_train)`."
        )


def check_one_class(model: Any) -> None:
    """Rejects several positions for a method that compares samples by their features.

    Raises:
        ValueError: for a student with classes at tokens, pixels or labels.
    """
    if model.positions.axes:
        raise ValueError(
            f"`{type(model).__name__}` compares the features of samples with one class each. "
            f"Received: a student with classes at {model.positions.count or 'many'} positions. "
            "Expected: outputs (batch, classes); or another method, such as "
            "`keras_lstsd.KnowledgeDistillation(student, teacher)`."
        )


def check_mixing(model: Any, mixing: Any) -> None:
    """Rejects mixed samples where a sample has classes at several positions.

    Raises:
        ValueError: for such a student with inputs that are mixed.
    """
    if mixing is not None and model.positions.axes:
        raise ValueError(
            "Mixed samples are guided only where a sample has one class. Received: MixUp or CutMix "
            f"for outputs of shape {model.student.output_shape}. Expected: augmentation without "
            "them."
        )


def check_rows(model: Any) -> None:
    """Rejects a student whose positions cannot be rows of tables.

    Raises:
        ValueError: where their number varies, and for more rows than int32 counts.
    """
    axes, count = model.positions.axes, model.positions.count
    if count is None:
        raise ValueError(
            "A memory per sample needs a fixed number of positions. "
            f"Received: outputs of shape {(None, *axes, model.student_units)}. Expected: inputs "
            "padded to one length, such as `keras.Input((128,))`; or a method without a memory "
            "per sample."
        )
    if model.num_rows >= 2**31:
        raise ValueError(
            "The tables would have too many rows. "
            f"Received: {model.num_samples} samples x {count} positions. Expected: below 2^31."
        )


def check_guidance(model: Any, guidance: Any, logits: Any) -> None:
    """Rejects guidance that is not per sample, or that logs other names than the method's.

    Raises:
        ValueError: for a loss of another shape than `[batch]`, for names that differ from `logged`.
    """
    if guidance is None:
        return
    method = type(model).__name__
    shape, batch = static_shape(guidance.loss), logits.shape[0]
    if shape is None or len(shape) != 1 or (None not in (*shape, batch) and shape[0] != batch):
        raise ValueError(
            f"The loss of `{method}.guidance` must have one value per sample. "
            f"Received: loss of shape {shape} for logits of shape {tuple(logits.shape)}. Expected: "
            "shape (batch,); the base class applies sample weights and takes the mean."
        )
    named = set(model.logged) - {"distillation_loss", "dropped_labels"}
    if named != set(guidance.logs):
        raise ValueError(
            f"`{method}.logged` must name the values that its guidance logs. "
            f"Received: logged={model.logged}, Guidance.logs with {sorted(guidance.logs)}. "
            "Expected: 'distillation_loss' where it shall be logged, and each name of "
            "`Guidance.logs`."
        )
