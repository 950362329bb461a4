"""The base class of all methods: a `keras.Model` around a student that learns from its own past."""

import inspect
import json
import math
import random
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_lstsd import checkpoints, students
from keras_lstsd.arguments import check_class_names, count
from keras_lstsd.callbacks import RotateTeachers
from keras_lstsd.data.augmentation import DeviceStage
from keras_lstsd.data.indexing import is_indexed, without_index
from keras_lstsd.data.pipeline import SampleBatches, fingerprint
from keras_lstsd.losses import log_softmax
from keras_lstsd.tables import ClassTable, SampleTable, add, inside, mixed, read, row_numbers


class Batch(NamedTuple):
    """What a method's hooks see of a training step."""

    inputs: Any
    """The student's inputs, as the data had them."""
    y: Any
    """Labels, as the compiled loss takes them."""
    sample_index: Any
    """Integers `[batch]`, for the tables."""
    logits: Any
    """The student's logits (or log-probabilities), float32 `[batch, classes]`."""
    sample_weight: Any
    """None or float32 `[batch]`."""
    logs: dict
    """A method puts per-sample values `[batch]` here, under its names of `logged`."""
    mixing: Any = None
    """None, or float32 `[batch, batch]`: the weights of the samples that make up each input."""
    checked: bool = False
    """Whether the host saw that no index comes twice or lies outside the tables."""

    def read(self, tables: SampleTable | list[SampleTable]) -> tuple[Any, Any]:
        """The samples' rows `[batch, classes]`, and where known; of a list see `tables.read`.

        For inputs that are mixed of several samples, their rows are mixed with the same weights.
        """
        log_probs, known = read(self.sample_index, tables, self.checked)
        if self.mixing is None:
            return log_probs, known
        temperature = keras.tree.flatten(tables)[0].temperature
        log_probs, known = mixed(self.mixing, log_softmax(log_probs, 1 / temperature), known)
        return log_softmax(log_probs, temperature), known

    def write(self, table: SampleTable, log_probs: Any) -> None:
        """Makes log-probabilities `[batch, classes]` the rows of the samples in a table."""
        table.write(self.sample_index, log_probs, self.checked)


@keras.saving.register_keras_serializable("keras_lstsd")
class SelfDistillation(keras.Model):
    """Trains a student classifier; its subclasses let the student's own past guide it.

    The loss of a batch is the compiled loss plus the mean of `distillation_loss`, which is zero
    here: by itself this class is plain training on the pipeline that all methods share. Wrap a
    classifier, then call `compile`, `fit`, `evaluate` and `predict` as on any Keras model;
    `student` is the trained classifier, a plain Keras model.

    A method is a subclass that overrides some of these hooks:

    1. `distillation_loss(batch)`: what guidance adds to the loss, per sample.
    2. `remember(batch)`: what to note of this step.
    3. `after_step()`: what must follow the weight update.
    4. `on_epoch_edge(epoch)`: before each epoch but the first.
    5. `on_generation_edge(generation)`: before each mini-generation but the first.

    and, where guidance replaces a part of the compiled loss, `compiled_loss_weight(batch)`.

    Memory (tables, copies of weights) is made in `build()`. A subclass sets its attributes, named
    as its arguments, before it calls `super().__init__`, which builds; `get_config` reads them.

    Args:
        student: a Keras classifier with one output `[batch, classes]` (logits or softmax), or
            `[batch, 1]` (one logit or sigmoid unit). If it is not built yet, `fit` builds it.
        num_samples: N, size of the training set: sample indices lie in `[0, N)`.
        mini_generation_epochs: E, epochs in a mini-generation.
        from_logits: whether the student puts out logits. None finds out from its last layer.
        name: name of the model.

    Raises:
        ValueError: for a student, a size or a weight that cannot work; from `fit`, for data
            without an index, and at the end of an epoch in which an index lay outside
            `[0, num_samples)`, or the loss or a weight was not finite (what has such an index is
            never stored, and such outputs teach nothing).

    Example:
        >>> model = keras_lstsd.SelfDistillation(student, num_samples=len(x_train))
        >>> model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
        >>> model.fit(x_train, y_train, epochs=3)
    """

    logged: tuple[str, ...] = ()
    """What a method reports of each epoch: names of entries it puts into `batch.logs`."""

    def __init__(
        self,
        student: keras.Model,
        num_samples: int,
        mini_generation_epochs: int = 6,
        from_logits: bool | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if not isinstance(student, keras.Model) or isinstance(student, SelfDistillation):
            raise ValueError(
                "`student` is the classifier to train. "
                f"Received: {student!r}. Expected: a plain Keras model with one output of shape "
                "[batch, classes] (the `student` of a model that is wrapped already)."
            )
        self.student = student
        self.num_samples = count("num_samples", num_samples)
        self.mini_generation_epochs = count("mini_generation_epochs", mini_generation_epochs)
        self.from_logits = from_logits
        self._batches = None
        self._stops_on_nan = False
        self._epoch_of_fit = -1
        self._data = None
        if student.built:
            self.build()

    # === What a method overrides ===

    def distillation_loss(self, batch: Batch) -> Any:
        """Hook 1: the guidance of each sample `[batch]`, zero where it has no teacher, or None."""
        return None

    def remember(self, batch: Batch) -> None:
        """Hook 2: notes what this step tells about its samples."""

    def after_step(self) -> None:
        """Hook 3: follows the update of the student's weights."""

    def on_epoch_edge(self, epoch: int) -> None:
        """Hook 4: before epoch 1, 2, ..., counted over the model's life."""

    def on_generation_edge(self, generation: int) -> None:
        """Hook 5: before mini-generation 1, 2, ..., after hook 4."""

    def compiled_loss_weight(self, batch: Batch) -> Any:
        """What each sample's compiled loss is multiplied by `[batch]`; None leaves it as it is.

        Called after hook 1, whose `batch.logs` it may read.
        """
        return None

    # === Building and calling ===

    def build(self, input_shape: Any = None) -> None:
        """Makes the memory, and the student's weights where it has none yet."""
        if not self.student.built:
            self.student.build(without_index(input_shape))
        self.num_classes = students.num_classes(self.student)
        if self.from_logits is None:
            self.from_logits = students.ends_in_logits(self.student)
        self._epoch = self._counter("epoch", -1)
        # Drawn as Keras draws its layers' seeds: `keras.utils.set_random_seed` decides.
        self._shuffle_seed = self._counter("shuffle_seed", random.randint(1, 10**9))
        # Over the samples of this epoch: what is logged, how many, how many outside the table.
        self._sums = keras.Variable(
            np.zeros(len(self.logged) + 2),
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="sum",
            synchronization="on_read",
            name="sums",
        )
        self._device_stage = DeviceStage()

    def _counter(self, name: str, value: int) -> keras.Variable:
        start = keras.initializers.Constant(value)
        return self.add_weight(
            shape=(), initializer=start, dtype="int32", trainable=False, name=name
        )

    def logits_of(self, outputs: Any) -> Any:
        """Outputs of the student, or of a copy of it, as float32 logits `[batch, classes]`."""
        activation = None if self.from_logits else students.last_activation(self.student)
        return students.logits(outputs, self.from_logits, activation)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.student(self.inputs_of(inputs), training=training)

    def inputs_of(self, x: Any) -> Any:
        """What the student takes, of all layouts in which data comes."""
        if is_indexed(x) and "draws" in x:
            x, *_ = self._device_stage.apply(x)
        return without_index(x)

    @property
    def epoch(self) -> int:
        """The epoch in training or last trained, counted over the model's life; -1 before any."""
        return int(ops.convert_to_numpy(self._epoch)) if self.built else -1

    @property
    def sample_tables(self) -> dict[str, SampleTable]:
        """What is remembered of each sample, by name; empty for a method without such tables."""
        layers = self._flatten_layers()
        return {layer.name: layer for layer in layers if isinstance(layer, SampleTable)}

    # === The step ===

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        batch = self._batch(x, y, y_pred, sample_weight)
        guidance = self.distillation_loss(batch)
        weight = self.compiled_loss_weight(batch)
        if weight is None:
            weight = sample_weight
        elif sample_weight is not None:
            weight = weight * batch.sample_weight
        loss = super().compute_loss(x, y, y_pred, weight, training)
        self.remember(batch)
        if guidance is not None:
            if sample_weight is not None:
                guidance = guidance * batch.sample_weight
            # Reduced as a regularizer is: under tf.distribute, divided by the number of replicas.
            guided = self._aggregate_additional_loss(_mean(guidance))
            loss = loss + ops.cast(guided, loss.dtype)
            batch.logs["distillation_loss"] = guidance
        columns = [ops.cast(batch.logs[name], "float32") for name in self.logged]
        ones = ops.ones_like(batch.logits[:, 0])
        outside = ops.zeros_like(ones)
        if not batch.checked:
            outside = ops.cast(~inside(batch.sample_index, self.num_samples), "float32")
        add(self._sums, ops.sum(ops.stack([*columns, ones, outside]), axis=-1))
        return loss

    def train_step(self, *args):
        # TensorFlow: data -> logs. JAX: (state, data) -> (logs, state).
        *state, data = args
        batch = keras.utils.unpack_x_y_sample_weight(data)
        if is_indexed(batch[0]) and "draws" in batch[0]:
            with self._state(*state):
                data = self._device_stage.apply(*batch)
        result = super().train_step(*state, data)
        if type(self).after_step is SelfDistillation.after_step:
            return result
        if not state:
            self.after_step()
            return result
        logs, state = result
        with self._state(state) as scope:
            self.after_step()
        trainable, _, *rest = state
        non_trainable = [scope.get_current_value(v) for v in self.non_trainable_variables]
        return logs, (trainable, non_trainable, *rest)

    def _state(self, state: tuple | None = None):
        """Where variables have the values of a step: on JAX those of its state."""
        if state is None:
            return nullcontext()
        trainable, non_trainable, *_ = state
        variables = self.trainable_variables + self.non_trainable_variables
        mapping = list(zip(variables, trainable + non_trainable, strict=True))
        return keras.StatelessScope(state_mapping=mapping)

    def evaluate(self, x=None, *args, **kwargs):
        _refuse_in_step(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x=None, *args, **kwargs):
        _refuse_in_step(x)
        return super().predict(x, *args, **kwargs)

    def _batch(self, x, y, y_pred, sample_weight) -> Batch:
        """What hooks see."""
        if not is_indexed(x):
            raise ValueError(_refusal(x))
        logits = self.logits_of(y_pred)
        index, checked = x["sample_index"], "checked" in x
        index = ops.cast(index, "int32") if checked else self._rows(index, logits)
        if sample_weight is not None:
            sample_weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        return Batch(x["inputs"], y, index, logits, sample_weight, {}, x.get("mixing"), checked)

    def _rows(self, index: Any, logits: Any) -> Any:
        """An index that nobody checked as int32, one for each sample; outside stays outside."""
        # TensorFlow knows no rank of what a Python function puts out.
        shape = None if getattr(index.shape, "rank", 1) is None else tuple(index.shape)
        if not keras.backend.is_int_dtype(index.dtype) or shape is None or len(shape) != 1:
            raise ValueError(
                "`sample_index` numbers the samples of a batch. "
                f"Received: shape={shape}, "
                f"dtype={keras.backend.standardize_dtype(index.dtype)}. "
                "Expected: shape=(batch,), dtype=int32; call `with_sample_index` on single "
                "samples, then `batch`."
            )
        index = row_numbers(index, self.num_samples)
        if None in (*shape, logits.shape[0]):
            # One index would be taken for all samples where the sizes are not known before.
            return ops.where(ops.shape(index)[0] == ops.shape(logits)[0], index, -1)
        if shape[0] != logits.shape[0]:
            raise ValueError(
                "Each sample of a batch has an index. "
                f"Received: {shape[0]} indices for {logits.shape[0]} samples. Expected: "
                "`sample_index` to be as long as the batch; call `with_sample_index` on single "
                "samples, then `batch`."
            )
        return index

    # === Epochs ===

    def begin_epoch(self, epoch_of_fit: int = 0) -> None:
        """Counts the epoch and calls the hooks of the edges; `RotateTeachers` calls it.

        Args:
            epoch_of_fit: the epoch's number in this call of `fit`, where a backup resumes it.
        """
        self._epoch_of_fit = epoch_of_fit
        epoch = self.epoch + 1
        self._epoch.assign(epoch)
        self._sums.assign(ops.zeros(self._sums.shape))
        if self._batches is not None:
            self._batches.begin_epoch(epoch, int(ops.convert_to_numpy(self._shuffle_seed)))
        if epoch > 0:
            self.on_epoch_edge(epoch)
            if epoch % self.mini_generation_epochs == 0:
                self.on_generation_edge(epoch // self.mini_generation_epochs)

    def end_epoch(self, logs: dict) -> None:
        """Reports the epoch's guidance and bad input; `RotateTeachers` calls it.

        Assertions in the step itself cannot report under XLA.

        Args:
            logs: the epoch's, with the mean loss; gets the means of what the method logs.

        Raises:
            ValueError: for an index outside the table; for a loss or a weight that is not finite.
        """
        *sums, count, outside = ops.convert_to_numpy(self._sums)
        means = (float(total / max(count, 1)) for total in sums)
        logs.update(zip(self.logged, means, strict=True))
        if outside:
            raise ValueError(
                f"`sample_index` must tell the samples apart. Received: {outside:.0f} samples in "
                f"epoch {self.epoch} whose index lies outside [0, num_samples={self.num_samples})"
                "; they had no teacher and were not stored. Expected: indices that count from 0, "
                f"as `with_sample_index` makes them, and `{type(self).__name__}(student, "
                "num_samples=<size of the training set>)`."
            )
        if self._stops_on_nan:
            return
        # A sample that the loss passes over, or the last update, breaks the weights alone.
        values = {weight.path: ops.convert_to_numpy(weight) for weight in self.student.weights}
        broken = [path for path, value in values.items() if not np.isfinite(value).all()]
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss) or broken:
            raise ValueError(
                f"Loss and weights must be finite. Received: a mean loss of {loss} in epoch "
                f"{self.epoch}, NaN or infinity in the weights {broken}; outputs that were not "
                "finite teach nothing. Expected: finite inputs, labels and sample weights, and a "
                "stable learning rate; `keras.callbacks.TerminateOnNaN()` stops at the first such "
                "batch."
            )

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Trains the student as `keras.Model.fit` does, guided by its past.

        Arrays get their row number as sample index and are shuffled by (seed, epoch), where the
        seed is drawn from Keras's global one and saved with the model. A `tf.data.Dataset`
        carries its index: see `keras_lstsd.data.with_sample_index`.

        Raises:
            ValueError: for data without an index, or with more samples than `num_samples`.

        Example:
            >>> model.fit(x_train, y_train, epochs=3, validation_split=0.1)
        """
        is_dataset = hasattr(x, "element_spec") or isinstance(x, keras.utils.PyDataset)
        if (y is None and hasattr(x, "shape")) or (y is not None and is_dataset):
            raise ValueError(
                "Labels come beside arrays, and inside data sets. "
                f"Received: x={type(x).__name__}, y={type(y).__name__}. Expected: "
                "`model.fit(x_train, y_train)`, or `model.fit(train)` with a data set of "
                "({'inputs': x, 'sample_index': i}, y)."
            )
        if y is not None:
            arrays = (x, y, sample_weight)
            if validation_split and validation_data is None:
                arrays, validation_data = _split(arrays, validation_split)
            x = SampleBatches(
                *arrays,
                batch_size=batch_size or 32,
                shuffle=shuffle,
                steps_per_epoch=steps_per_epoch,
            )
            sample_weight, validation_split, steps_per_epoch = None, 0.0, None
        # The order of our own batches and of a tf.data.Dataset is in the data.
        shuffle = shuffle and not isinstance(x, SampleBatches) and not hasattr(x, "element_spec")
        self._batches = x if isinstance(x, SampleBatches) else None
        if self._batches is not None and steps_per_epoch is not None:
            raise ValueError(
                "How long an epoch is, decides the order of its batches. Received: "
                f"steps_per_epoch={steps_per_epoch} beside SampleBatches. Expected: "
                f"`SampleBatches(..., steps_per_epoch={steps_per_epoch})`."
            )
        _refuse_in_step(validation_data)
        self._epoch_of_fit = initial_epoch - 1
        self._data = fingerprint(x)
        try:
            if self._batches is not None:
                self._check_size(x.sample_index)
                # So the step need not.
                x.checked = x.distinct
                if keras.backend.backend() == "tensorflow":
                    x = x.tf_dataset()
            self._check_data(x)
            self._check_loss()
            with self._scope():
                if self._device_stage.serve(self._batches):
                    self.train_function = None
            self._tell_memory(verbose)
            callbacks = _with_rotation(callbacks, self)
            listed = getattr(callbacks, "callbacks", callbacks)
            self._stops_on_nan = any(
                isinstance(callback, keras.callbacks.TerminateOnNaN) for callback in listed
            )
            for callback in listed:
                if isinstance(callback, keras.callbacks.BackupAndRestore):
                    checkpoints.prepare(callback, self._facts())
            # Where a restored run began; Keras would begin the next `fit` there as well.
            self._initial_epoch = None
            return super().fit(
                x,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_split=validation_split,
                validation_data=validation_data,
                shuffle=shuffle,
                class_weight=class_weight,
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size or batch_size,
                validation_freq=validation_freq,
            )
        finally:
            if self._batches is not None:
                self._batches.checked = False
            self._batches = None

    def _check_data(self, data: Any) -> None:
        """Refuses a data set without an index; builds a student that is not built from its data."""
        inputs = None
        if hasattr(data, "element_spec"):
            spec = data.element_spec
            inputs = spec[0] if isinstance(spec, tuple) else spec
        elif isinstance(data, keras.utils.PyDataset) and not self.built:
            inputs = data[0][0]
        if inputs is not None and not is_indexed(inputs):
            raise ValueError(_refusal(inputs))
        if self.built:
            return
        if inputs is None:
            raise ValueError(
                "A generator does not tell the shape of its inputs before it runs. "
                "Received: a student that is not built. Expected: a built one; write "
                "`student(x[:1])` before it is wrapped."
            )
        with self._scope():
            self.student(keras.tree.map_structure(_symbolic, inputs["inputs"]))
            self.build()

    def _scope(self):
        """Where variables are made: in that of the strategy the model was made in."""
        if keras.backend.backend() == "tensorflow":
            return self.distribute_strategy.scope()
        return nullcontext()

    def _check_size(self, sample_index: np.ndarray) -> None:
        """Refuses arrays with more samples than there are rows."""
        if sample_index.dtype.kind not in "iu" or sample_index.ndim != 1:
            raise ValueError(
                "`sample_index` numbers the samples. "
                f"Received: dtype={sample_index.dtype}, shape={sample_index.shape}. Expected: "
                "integers, one for each sample, as `np.arange(len(x_train))`."
            )
        lowest, highest = sample_index.min(), sample_index.max()
        if lowest < 0 or highest >= self.num_samples:
            raise ValueError(
                "Each training sample needs a row of its own. "
                f"Received: sample indices from {lowest} to {highest}. Expected: from 0 to below "
                f"num_samples={self.num_samples}; write `{type(self).__name__}(student, "
                f"num_samples={highest + 1})`."
            )

    def _check_loss(self) -> None:
        """Refuses a compiled loss that takes the student's logits for probabilities, or back."""
        loss = getattr(self._compile_loss, "_user_loss", None)
        if isinstance(loss, list | tuple) and len(loss) == 1:
            loss = loss[0]
        name = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
        if isinstance(loss, keras.losses.Loss):
            # A loss class of another kind may have no config.
            expected = getattr(loss, "_fn_kwargs", {}).get("from_logits")
        else:
            expected = False if name.endswith("crossentropy") else None
        if expected is not None and expected != self.from_logits:
            puts_out = "logits" if self.from_logits else "probabilities"
            raise ValueError(
                f"The student puts out {puts_out}, the compiled loss takes from_logits={expected}"
                f". Received: loss={loss!r}. Expected: a loss with from_logits={self.from_logits},"
                " for example `loss=keras.losses.SparseCategoricalCrossentropy("
                f"from_logits={self.from_logits})`."
            )

    def _tell_memory(self, verbose: Any) -> None:
        """One line at first use: beside the progress bars where there are any, else in the log."""
        tables = self.sample_tables.values()
        if not tables or self.epoch >= 0:
            return
        line = (
            f"{self.name} remembers {self.num_samples} samples x {self.num_classes} classes in "
            f"{len(tables)} tables: {sum(table.mebibytes for table in tables):.1f} MiB."
        )
        if verbose and keras.config.is_interactive_logging_enabled():
            print(line)
        else:
            logging.info(line)

    # === Saving and serving ===

    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        """Saves as `keras.Model.save_weights` does, and signs the file with a checksum.

        What was at `filepath` stays until the new file is whole.
        """
        if max_shard_size is not None or not _is_local(filepath, ".weights.h5", overwrite):
            return super().save_weights(filepath, overwrite, max_shard_size)
        optimizer = getattr(self, "optimizer", None)
        images = {id(weight) for weight in self._device_stage.weights} if self.built else {}
        variables = self.variables + getattr(optimizer, "variables", [])
        # HDF5 takes the whole process down when a disk is full: its room is sought before.
        room = sum(
            4096 + np.dtype(variable.dtype).itemsize * math.prod(variable.shape)
            for variable in variables
            if id(variable) not in images
        )
        with checkpoints.replacing(filepath, room) as part:
            super().save_weights(part)
            checkpoints.sign(part, self._facts() | {"epoch": self._epoch_of_fit + 1})

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """Loads as `keras.Model.load_weights` does, but nothing damaged or softened otherwise.

        Raises:
            OSError: for a file that is damaged.
            ValueError: for rows of teachers that were softened with another temperature.
        """
        if _is_local(filepath, ".weights.h5"):
            own = getattr(self, "temperature", None)
            saved = checkpoints.facts_of(filepath).get("temperature", own)
            kinds = (SampleTable, ClassTable)
            if saved != own and any(isinstance(layer, kinds) for layer in self._flatten_layers()):
                raise ValueError(
                    "Teachers' rows are softened when they are written. "
                    f"Received: rows of temperature {saved} for a model of {own}. Expected: one "
                    f"temperature; write `{type(self).__name__}(student, ..., "
                    f"temperature={saved})`."
                )
        super().load_weights(filepath, skip_mismatch, **kwargs)

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """Saves as `keras.Model.save` does; what was there stays until the new file is whole."""
        if not _is_local(filepath, ".keras", overwrite) or zipped is False:
            return super().save(filepath, overwrite, zipped, **kwargs)
        with checkpoints.replacing(filepath) as part:
            super().save(part, zipped=zipped, **kwargs)

    def _facts(self) -> dict[str, Any]:
        """What a training is of: a backup of another one is not resumed."""
        own = inspect.signature(type(self).__init__).parameters.keys() - {"self", "student", "name"}
        return {
            "method": type(self).__name__,
            **{name: getattr(self, name) for name in sorted(own) if hasattr(self, name)},
            "num_classes": getattr(self, "num_classes", None),
            "precision": self.student.dtype_policy.name,
            "begun": self.epoch - self._epoch_of_fit,
            "data": self._data,
        }

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        probabilities: bool = False,
        class_names: Sequence[str] | None = None,
        **kwargs,
    ):
        """Writes the student alone for serving: no tables, no teacher, each weight once.

        Takes the arguments of `keras.Model.export`. `served = tf.saved_model.load(filepath)` has
        the endpoint `served.serve(x)`, which puts out what `predict(x)` does. Other formats, and
        SavedModels of the JAX backend, are written by Keras, of the student as it is.

        What makes x of texts or images, where the student is a task of KerasHub with a
        preprocessor, lies beside it: clients make it again with
        `keras_hub.models.TextClassifierPreprocessor.from_preset(f"{filepath}/assets.extra")`.

        Args:
            input_signature: as Keras has it. A student that is a subclass of `keras.Model` does
                not know the dtypes of its inputs: here they are said, where they are not floats.
            probabilities: put out softmax probabilities, float32 `[batch, classes]`, whatever the
                student ends in; of one unit that is `[1 - p, p]`.
            class_names: one name per class. The endpoint then puts out a dict: "class_name", the
                likeliest one's as strings `[batch]`, beside "outputs", or "probabilities" if they
                are asked for. XLA knows no strings: no compiled caller can ask for the names.

        Raises:
            ValueError: for class names that are not one per class, for a student without weights.
            TypeError: for options that nothing would heed.
            NotImplementedError: in another format or on another backend, for these two options,
                and for a method whose `predict` asks more than the student.

        Example:
            >>> names = [f"digit {number}" for number in range(10)]
            >>> model.export("serving/1", probabilities=True, class_names=names)
            >>> served = tf.saved_model.load("serving/1")
            >>> served.serve(x_test)["class_name"]
        """
        if not self.built:
            raise ValueError(
                "There are no weights to export before the student is built. Received: a student "
                "that is not built. Expected: to export after `fit`, or to write `student(x[:1])` "
                "before it is wrapped."
            )
        if class_names is not None:
            check_class_names(class_names, self.num_classes)
        if format != "tf_saved_model" or keras.backend.backend() != "tensorflow":
            alone = type(self).call is SelfDistillation.call
            if probabilities or class_names is not None or not alone:
                raise NotImplementedError(
                    "`probabilities`, `class_names` and the votes of an ensemble are exported as a "
                    f"SavedModel on TensorFlow. Received: format={format!r} on "
                    f"{keras.backend.backend()}. Expected: to load the saved model with "
                    "KERAS_BACKEND=tensorflow and export it there, or `model.student.export(...)` "
                    "for what the student itself puts out."
                )
            return self.student.export(
                filepath, format, verbose=verbose, input_signature=input_signature, **kwargs
            )
        if kwargs:
            # Keras would pass over them: a misspelt option should not be missed in service.
            raise TypeError(
                "A SavedModel on TensorFlow is written with no other options. "
                f"Received: {', '.join(kwargs)}. Expected: `probabilities`, `class_names`."
            )

        def serve(inputs):
            outputs = self.call(inputs, training=False)
            logits = self.logits_of(outputs)
            if probabilities:
                outputs = ops.softmax(logits)
            if class_names is None:
                return outputs
            import tensorflow as tf

            name = tf.gather(list(class_names), ops.argmax(logits, axis=-1))
            return {"probabilities" if probabilities else "outputs": outputs, "class_name": name}

        archive = keras.export.ExportArchive()
        for layer in self.student._flatten_layers():
            # For lookup tables. What has weights is not tracked: they would be written twice.
            if layer.built and not layer.variables:
                archive.track(layer)
        archive.add_endpoint(
            "serve", serve, input_signature or students.input_signature(self.student)
        )
        archive.write_out(filepath, verbose=True if verbose is None else verbose)
        preprocessor = getattr(self.student, "preprocessor", None)
        if hasattr(preprocessor, "save_to_preset"):
            # Where SavedModels keep what belongs to them and is not part of the graph.
            folder = Path(filepath) / "assets.extra"
            preprocessor.save_to_preset(str(folder))
            # By which `from_preset` knows whose preprocessor it is.
            backbone = keras.saving.serialize_keras_object(self.student.backbone)
            (folder / "config.json").write_text(json.dumps(backbone))

    def get_config(self) -> dict:
        arguments = list(inspect.signature(type(self).__init__).parameters)[1:]
        config = {name: getattr(self, name) for name in arguments}
        return config | {"student": keras.saving.serialize_keras_object(self.student)}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "SelfDistillation":
        student = keras.saving.deserialize_keras_object(
            config["student"], custom_objects=custom_objects
        )
        return cls(**config | {"student": student})

    def save_own_variables(self, store) -> None:
        # Keras saves no seed states (dropout's, say); a resumed run needs them.
        super().save_own_variables(store)
        for number, state in enumerate(self._seed_states()):
            store[f"seed_{number}"] = state

    def load_own_variables(self, store) -> None:
        keys = list(store.keys())
        super().load_own_variables({key: store[key] for key in keys if key.isdigit()})
        saved = sorted(key for key in keys if not key.isdigit())
        states = self._seed_states()
        if len(saved) != len(states):
            raise ValueError(
                "The saved model and this one draw random numbers in different places. "
                f"Received: {len(saved)} seed states. Expected: {len(states)}, those of this "
                "student."
            )
        for number, state in enumerate(states):
            state.assign(store[f"seed_{number}"])

    def _seed_states(self) -> list:
        weights = {id(weight) for weight in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]


def _mean(values: Any) -> Any:
    """The mean, 0 for an empty batch, which a replica may get as its part of a last one."""
    if values.shape[0]:
        return ops.mean(values)
    return ops.divide_no_nan(ops.sum(values), ops.cast(ops.shape(values)[0], "float32"))


def _symbolic(tensor: Any) -> keras.KerasTensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.KerasTensor((None, *tensor.shape[1:]), dtype)


def _is_local(path: Any, suffix: str, overwrite: bool = True) -> bool:
    """Whether `path` can be replaced in one move: no bucket, and no question to a person first."""
    is_local = str(path).endswith(suffix) and "://" not in str(path)
    return is_local and (overwrite or not Path(path).exists())


def _refusal(x: Any) -> str:
    return (
        "Training data must carry the index of each sample. "
        f"Received: x={x}. Expected: x={{'inputs': ..., 'sample_index': int32 (batch,)}}; for a "
        "tf.data.Dataset write `train = keras_lstsd.data.with_sample_index(train)` before "
        "`shuffle` and `batch`, from a PyDataset or generator yield that dict."
    )


def _refuse_in_step(data: Any) -> None:
    """Refuses to score batches that the step would make of the training images."""
    if isinstance(data, SampleBatches) and data.in_step:
        raise ValueError(
            "Batches that the step augments are for training. Received: SampleBatches with "
            "`on_device` or `layers` to evaluate or predict on. Expected: arrays, as "
            "`validation_data=(x_test, y_test)`."
        )


def _split(arrays: tuple, fraction: float) -> tuple[tuple, tuple]:
    """Cuts the last `fraction` of the samples off, as Keras's `validation_split` does."""
    arrays = tuple(array for array in arrays if array is not None)
    count = len(keras.tree.flatten(arrays[0])[0])
    first = int(count * (1 - fraction))
    if not 0 < first < count:
        raise ValueError(
            "`validation_split` must leave samples on both sides. "
            f"Received: validation_split={fraction} with {count} samples. "
            "Expected: a fraction between 0 and 1."
        )

    def cut(part):
        return keras.tree.map_structure(lambda array: array[part], arrays)

    return cut(slice(0, first)), cut(slice(first, count))


def _with_rotation(callbacks: Any, model: SelfDistillation) -> Any:
    """The callbacks with `RotateTeachers` among them: first, so that no bad epoch is backed up."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if not any(isinstance(callback, RotateTeachers) for callback in callbacks.callbacks):
            rotation = RotateTeachers()
            rotation.set_model(model)
            callbacks.callbacks.insert(0, rotation)
        return callbacks
    callbacks = list(keras.tree.flatten(callbacks)) if callbacks is not None else []
    rotations = [callback for callback in callbacks if isinstance(callback, RotateTeachers)]
    others = [callback for callback in callbacks if not isinstance(callback, RotateTeachers)]
    return [*(rotations or [RotateTeachers()]), *others]
