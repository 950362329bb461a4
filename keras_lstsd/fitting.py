"""`fit`: from its arguments to batches and callbacks; epoch boundaries."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_lstsd import checks, compat, compiled_loss, dropping, processes
from keras_lstsd.callbacks import with_rotation
from keras_lstsd.data.arrays import is_ragged, is_sparse, split
from keras_lstsd.data.batches import SampleBatches
from keras_lstsd.data.fingerprint import fingerprint
from keras_lstsd.data.index import is_indexed, num_samples_of, without_index


class Fitting:
    """`fit` and the epochs of a `Distillation`; mixed into it."""

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
        """Trains the student as `keras.Model.fit` does, with the method's guidance.

        Arrays are shuffled by (seed, epoch), where the seed is drawn from Keras's global one and
        saved with the model, so an interrupted run resumes exactly. Their row number is the sample
        index. For a method with a memory per sample, a `tf.data.Dataset` carries its index: see
        `keras_lstsd.data.with_sample_index`. Other methods take any data that Keras takes.

        Several JAX processes that train together get the same arrays and read their parts of each
        batch. The first process writes backups, to a folder that all of them see.

        A sample without a label (-1, NaN, or an all-zero one-hot row) adds nothing to the compiled
        loss, whose divisor counts it, nor to metrics, and is guided as all others. `fit` finds such
        samples in arrays, for a crossentropy of Keras; otherwise write
        `model.has_unlabelled = True` before `fit`.

        Raises:
            ValueError: for data without an index where the method needs one, for more samples
                than `num_samples`, for arrays whose rows mean other samples than before, and for
                batches that several devices cannot divide. At the end of an epoch: for an
                out-of-range index, for an index that came to mean another sample, and for a loss
                or weight that is not finite.

        Example:
            >>> model.fit(x_train, y_train, epochs=3, validation_split=0.1)
        """
        checks.check_labels_place(x, y, self.needs_sample_index)
        checks.warn_of_overrides(self.student)
        checks.check_in_step(validation_data)
        self._count_samples(x, y)
        arrays = (x, y, sample_weight)
        gathered = self.needs_sample_index or not any(
            is_sparse(part) or is_ragged(part) for part in keras.tree.flatten(arrays)
        )
        if y is not None and gathered:
            if validation_split and validation_data is None:
                arrays, validation_data = split(arrays, validation_split)
            x = SampleBatches(
                *arrays,
                batch_size=batch_size or 32,
                shuffle=shuffle,
                steps_per_epoch=steps_per_epoch,
            )
            y = sample_weight = steps_per_epoch = None
            validation_batch_size = validation_batch_size or batch_size
            batch_size, validation_split = None, 0.0
        batches = x if isinstance(x, SampleBatches) else None
        if batches is not None and steps_per_epoch is not None:
            raise ValueError(
                "`steps_per_epoch` decides the order of SampleBatches, so they must know it. "
                f"Received: steps_per_epoch={steps_per_epoch} beside SampleBatches. Expected: "
                f"`SampleBatches(..., steps_per_epoch={steps_per_epoch})`."
            )
        if batches is not None or hasattr(x, "element_spec"):
            # Their order is their own; Keras would warn.
            shuffle = False
        self._batches, self._source = batches, x
        self._epoch_of_fit = initial_epoch - 1
        self._first_epoch_of_fit = None
        self._data = fingerprint(x)
        try:
            self._check_devices(x)
            if batches is not None:
                self._validate_index(batches)
                if keras.backend.backend() == "tensorflow":
                    x = batches.tf_dataset()
            self._build_for(x)
            self.find_positions()
            compiled_loss.check(self)
            if batches is not None:
                self._find_unlabelled(self.of_guided(batches.labels[0]))
            with self._scope():
                self.make_memory()
                if self._device_stage.serve(batches):
                    self.train_function = None
            self._log_memory(verbose)
            callbacks = with_rotation(callbacks, self)
            listed = getattr(callbacks, "callbacks", callbacks)
            self._stops_on_nan = any(
                isinstance(callback, keras.callbacks.TerminateOnNaN) for callback in listed
            )
            self.prepare_backups(listed)
            compat.forget_restored_epoch(self)
            if class_weight is not None:
                # Keras fills in missing classes for arrays only.
                classes = max(self.num_classes, self.positions.labels)
                class_weight = dict.fromkeys(range(classes), 1.0) | class_weight
            with processes.as_given(batches is not None):
                history = super().fit(
                    x,
                    y,
                    batch_size=batch_size,
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
                    validation_batch_size=validation_batch_size,
                    validation_freq=validation_freq,
                )
            self._interrupted = None
            return history
        finally:
            if batches is not None:
                batches.index_validated = False
            self._batches = self._source = None

    # === Before the first step ===

    def _check_devices(self, data: Any) -> None:
        """Rejects data that the devices and processes cannot divide."""
        sizes = set()
        if self._batches is not None:
            sizes = self._batches.sizes
        elif hasattr(data, "element_spec"):
            parts = keras.tree.flatten(data.element_spec)
            sizes = {part.shape[0] for part in parts if getattr(part, "shape", None)}
        on_tensorflow = keras.backend.backend() == "tensorflow"
        processes.check(self.distribute_strategy if on_tensorflow else None, data, sizes)

    def _count_samples(self, x: Any, y: Any) -> None:
        """Finds `num_samples` where the method needs it and the user left it to the data."""
        if not self.needs_sample_index or self.num_samples is not None:
            return
        if isinstance(x, SampleBatches):
            samples = int(x.sample_index.max()) + 1
        elif y is not None:
            index = x["sample_index"] if is_indexed(x) else None
            samples = len(y) if index is None else int(np.max(index)) + 1
        else:
            samples = num_samples_of(x) if hasattr(x, "element_spec") else None
        if samples is None:
            raise ValueError(
                "The number of training samples is not known from this data. "
                f"Received: x={type(x).__name__}, num_samples=None. Expected: write "
                f"`{type(self).__name__}(student, num_samples=<size of the training set>)`."
            )
        self.num_samples = checks.count("num_samples", samples)

    def _validate_index(self, batches: SampleBatches) -> None:
        """Checks the indices of arrays once, so that the step need not."""
        if not self.needs_sample_index:
            batches.index_validated = True
            return
        checks.check_sample_index(batches.sample_index, self.num_samples, type(self).__name__)
        batches.index_validated = batches.distinct
        checksums = batches.sample_checksums()
        checks.check_same_samples(self._checksums, checksums)
        self._checksums = checksums

    def _find_unlabelled(self, y: Any) -> None:
        """Finds whether samples of arrays have no label; the step is compiled again then.

        A loss with an `ignore_class` leaves them out itself. To other losses than crossentropies
        such numbers may be labels.
        """
        ignores = getattr(compiled_loss.of(self), "ignore_class", None) is not None
        if ignores or "crossentropy" not in compiled_loss.name_of(self):
            return
        if self.positions.any_missing(y) and not self.has_unlabelled:
            self.has_unlabelled, self.train_function = True, None

    def _build_for(self, data: Any) -> None:
        """Rejects a data set without an index; builds a student that is not built yet."""
        inputs = None
        if hasattr(data, "element_spec"):
            spec = data.element_spec
            inputs = spec[0] if isinstance(spec, tuple) else spec
        elif isinstance(data, keras.utils.PyDataset) and not self.student.built:
            inputs = data[0][0]
        if inputs is not None and self.needs_sample_index and not is_indexed(inputs):
            raise ValueError(checks.missing_index(inputs))
        if self.student.built:
            self.student_is_built()
            return
        if inputs is None:
            raise ValueError(
                "The shape of these inputs is not known before training. "
                "Received: a student that is not built. Expected: a built one; write "
                "`student(x[:1])` before it is wrapped."
            )
        with self._scope():
            self.student(keras.tree.map_structure(_symbolic, without_index(inputs)))
            self.student_is_built()

    def _scope(self):
        """The scope of the strategy in which the model was made; variables are made there."""
        if keras.backend.backend() == "tensorflow":
            return self.distribute_strategy.scope()
        return nullcontext()

    def _log_memory(self, verbose: Any) -> None:
        """Prints or logs the size of the tables, before the first epoch."""
        tables = [layer for layer in compat.layers_of(self) if hasattr(layer, "described")]
        if not tables or self.epoch >= 0:
            return
        widest = max(tables, key=lambda table: table.mebibytes)
        line = (
            f"{self.name} stores {widest.described(self.positions.count or 1)} in "
            f"{len(tables)} table{'s' * (len(tables) > 1)}: "
            f"{sum(table.mebibytes for table in tables):.1f} MiB."
        )
        if verbose and keras.config.is_interactive_logging_enabled():
            print(line)
        else:
            logging.info(line)

    # === Data outside the step ===

    @property
    def is_augmented(self) -> bool:
        """Whether `fit` is known to change the inputs of a sample from epoch to epoch."""
        return self._batches is not None and self._batches.draws

    def plain_samples(self) -> Iterator[tuple[Any, np.ndarray, Any]]:
        """Each training sample of the present `fit` once, without augmentation, in batches.

        Yields inputs, sample indices `[batch]` and labels.

        Raises:
            ValueError: for data that can be read only once, and for an out-of-range index.
        """
        source, batches = self._source, self._batches
        if batches is not None:
            for first in range(0, batches.num_samples, batches.batch_size):
                rows = slice(first, first + batches.batch_size)
                inputs = batches.plain_inputs(rows)
                yield inputs, batches.sample_index[rows], self.of_guided(batches.labels[0])[rows]
            return
        if isinstance(source, Iterator):
            raise ValueError(
                "A generator can be read only once, and the samples are read before training too. "
                f"Received: x={type(source).__name__}. Expected: a tf.data.Dataset or a PyDataset, "
                "such as `tf.data.Dataset.from_generator(...)`."
            )
        missing = np.ones(self.num_samples, "bool")
        steps = range(len(source)) if isinstance(source, keras.utils.PyDataset) else None
        for batch in source if steps is None else map(source.__getitem__, steps):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
            if not is_indexed(x):
                raise ValueError(checks.missing_index(x))
            index = ops.convert_to_numpy(x["sample_index"])
            checks.check_sample_index(index, self.num_samples, type(self).__name__)
            inputs = without_index(x)
            checks.check_one_index_each(len(index), len(keras.tree.flatten(inputs)[0]))
            yield inputs, index, self.of_guided(y)
            missing[index] = False
            # A data set that repeats has no end.
            if not missing.any():
                return

    # === Epoch boundaries ===

    def start_epoch(self, epoch_of_fit: int = 0, epochs: int | None = None) -> None:
        """Counts the epoch and calls the hooks; `RotateTeachers` calls it.

        Args:
            epoch_of_fit: the epoch's number in this call of `fit`, where a backup resumes it.
            epochs: all epochs of this call of `fit`, for `progress`; None: it is 1.
        """
        self._epoch_of_fit = epoch_of_fit
        if self._first_epoch_of_fit is None:
            self._first_epoch_of_fit = epoch_of_fit
            processes.check_equal({"epoch": self.epoch, "seed": self.shuffle_seed})
        epoch = self.epoch + 1
        self._epoch.assign(epoch)
        self.progress.assign(1.0 if epochs is None else min(1.0, (epoch_of_fit + 1) / epochs))
        self._sums.assign(ops.zeros(self._sums.shape))
        if self._batches is not None:
            self._batches.start_epoch(epoch, self.shuffle_seed)
        self.on_epoch_start(epoch)
        if epoch % self.mini_generation_epochs == 0:
            self.on_stage_start(epoch // self.mini_generation_epochs)

    def end_epoch(self, logs: dict) -> None:
        """Logs the epoch's guidance and reports bad input; `RotateTeachers` calls it.

        Assertions inside the step are lost under XLA.

        Args:
            logs: those of the epoch, with the mean loss; the method's means are added.

        Raises:
            ValueError: for an out-of-range index, for an index that came to mean another sample,
                for a loss or a weight that is not finite.
        """
        sums = ops.convert_to_numpy(self._sums)
        means = sums[: len(self.logged)] / max(sums[len(self.logged)], 1)
        logs.update(zip(self.logged, map(float, means), strict=True))
        dropping.warn_of_most(self, logs)
        if self.needs_sample_index:
            self._report_indices(*sums[-2:])
        if self._stops_on_nan:
            return
        # Weights can break without the loss: by the last update, or a sample the loss ignores.
        values = {weight.path: processes.numpy(weight) for weight in self.student.weights}
        broken = [path for path, value in values.items() if not np.isfinite(value).all()]
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss) or broken:
            raise ValueError(
                f"The loss or the weights are not finite. Received: a mean loss of {loss} in epoch "
                f"{self.epoch}, NaN or infinity in {len(broken)} weights, the first {broken[:3]}; "
                "outputs that are not finite are never stored. Expected: finite inputs, labels and "
                "sample weights, and a stable learning rate; `keras.callbacks.TerminateOnNaN()` "
                "stops at the first such batch."
            )

    def _report_indices(self, out_of_range: float, changed: float) -> None:
        if out_of_range:
            raise ValueError(
                f"`sample_index` is out of range. Received: {out_of_range:.0f} samples in epoch "
                f"{self.epoch} whose index is outside [0, num_samples={self.num_samples}); they "
                "had no teacher and were not stored. Expected: indices that count from 0, as "
                f"`with_sample_index` makes them, and `{type(self).__name__}(student, "
                "num_samples=<size of the training set>)`."
            )
        # In its first epoch a `fit` may bring corrected labels.
        if changed and self._epoch_of_fit > self._first_epoch_of_fit:
            raise ValueError(
                "`sample_index` stopped meaning the same sample, so samples were taught by the "
                f"past of others. Received: {changed:.0f} samples in epoch {self.epoch} with "
                "another class than in the epoch before. Expected: an index given before every "
                "shuffle and in a fixed order: `train = keras_lstsd.data.with_sample_index(train)`"
                ", then `train.shuffle(...).batch(...)`; from files, read with "
                "`shuffle_files=False`."
            )


def _symbolic(tensor: Any) -> keras.KerasTensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.KerasTensor((None, *tensor.shape[1:]), dtype)
