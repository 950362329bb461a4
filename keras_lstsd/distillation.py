"""The base class of all methods: a `keras.Model` that trains a student with guidance."""

import functools
import random
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd import checks, compat, compiled_loss, memory, outputs, processes, taps
from keras_lstsd.class_tables import ClassTable, LabelTable
from keras_lstsd.data.augmentation import DeviceStage
from keras_lstsd.data.index import is_indexed, sample_rows, without_index
from keras_lstsd.dropping import MarginTable
from keras_lstsd.fitting import Fitting
from keras_lstsd.heads import Heads, head_of
from keras_lstsd.positions import Positioned
from keras_lstsd.saving import Saving
from keras_lstsd.serving import Serving
from keras_lstsd.step import Guidance, Step
from keras_lstsd.tables import SampleTable, in_range
from keras_lstsd.updating import Updating
from keras_lstsd.variables import add


@keras.saving.register_keras_serializable("keras_lstsd")
class Distillation(Fitting, Heads, Positioned, Saving, Serving, Updating, keras.Model):
    """Trains a student classifier; subclasses add the guidance of a teacher.

    The loss of a batch is the compiled loss plus the guidance, reduced as the compiled loss is.
    This class has no guidance: by itself it is plain training with the same data pipeline. Wrap a
    classifier, then call `compile`, `fit`, `evaluate` and `predict` as on any Keras model.
    `student` is the trained classifier, a plain Keras model.

    A method is a subclass. It calls `super().__init__` first, then sets its attributes, named as
    its arguments, and its memory: `SampleTable`, `ClassTable`, `Snapshot`. The first use of the
    model makes their variables. It overrides some of five hooks:

    1. `guidance(step)`: what guidance adds to the loss, in each step.
    2. `record(step, guidance)`: what to store of this step, after the loss.
    3. `after_update()`: what follows the update of the student's weights.
    4. `on_epoch_start(epoch)`: before each epoch, from 0.
    5. `on_stage_start(stage)`: before each mini-generation (stage, cycle), from 0, after hook 4.

    Args:
        student: a Keras classifier with one output `[batch, classes]` (logits or softmax),
            `[batch, 1]` (one logit or sigmoid unit), `[batch, labels]` (multi-label: sigmoid units,
            or logits with a binary loss), or one of these at each token or pixel
            `[batch, ..., classes]`. If it is not built yet, `fit` builds it.
        mini_generation_epochs: E, epochs in a mini-generation.
        num_samples: N, size of the training set, for methods with a memory per sample.
        from_logits: whether the student's outputs are logits. None: decided by its last layer.
        guided_output: of a student with several outputs, the name of the one that is guided. The
            others train as compiled. Its weight in `loss_weights` weighs the guidance too.
        drop_issues_after: D, for data with wrong labels. Over the first D epochs the margin of
            each label is summed up, `z_y - max_(c != y) z_c`. From then on a label whose sum is
            negative does not count: the compiled loss of its sample (token, pixel) has a weight of
            0, and the guidance stays. A label that a later `fit` corrects counts again. A quarter
            of the epochs is a good choice. None: all labels count. What else learns from labels,
            such as the teacher of `ProKT` and the classes of `DUPS`, learns from all.
        name: name of the model.

    Logs: with `drop_issues_after`, `dropped_labels`: the share of labels that do not count.

    Raises:
        ValueError: for a student, a size or a weight that cannot work; see also `fit`.

    Example:
        >>> model = keras_lstsd.Distillation(student)
        >>> model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
        >>> model.fit(x_train, y_train, epochs=3)

        With several labels for each sample, here two; any method works:

        >>> tagger = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "sigmoid")])
        >>> model = keras_lstsd.Distillation(tagger)
        >>> model.compile(optimizer="sgd", loss="binary_crossentropy")
        >>> model.fit(x_train, np.stack([y_train > 0, y_train > 1], axis=1).astype(int))
    """

    needs_sample_index: bool = False
    """Whether the method has a memory per sample, and so needs the index of each."""

    logged: tuple[str, ...] = ()
    """Names of the values that a method logs: `distillation_loss` and those of `Guidance.logs`."""

    def __init__(
        self,
        student: keras.Model,
        *,
        mini_generation_epochs: int = 1,
        num_samples: int | None = None,
        from_logits: bool | None = None,
        guided_output: str | None = None,
        drop_issues_after: int | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.drop_issues_after = None
        if drop_issues_after is not None:
            self.needs_sample_index = True
            self.logged = (*self.logged, "dropped_labels")
            self.drop_issues_after = checks.count("drop_issues_after", drop_issues_after)
            self.label_margins = MarginTable(self.drop_issues_after, name="label_margins")
        checks.check_student(student, Distillation)
        has_stages = type(self).on_stage_start is not Distillation.on_stage_start
        checks.check_used(self, has_stages, num_samples, mini_generation_epochs)
        self.student = student
        self.mini_generation_epochs = checks.count("mini_generation_epochs", mini_generation_epochs)
        self.num_samples = None if num_samples is None else checks.count("num_samples", num_samples)
        self.from_logits = from_logits
        self.guided_output = guided_output
        self.head = head_of(student, guided_output)
        # Names of the student's layers whose outputs `step.features` has.
        self.taps = ()
        # A function, as Keras would track the model as a part of this one.
        self.tapped = functools.cache(lambda: taps.tapped(self.student, self.taps))
        self.has_memory = self.is_multi_label = False
        # Whether training samples may lack a label. `fit` finds it in arrays.
        self.has_unlabelled = False
        self._batches = self._source = self._data = self._first_epoch_of_fit = self._interrupted = (
            None
        )
        self._stops_on_nan = False
        self._epoch_of_fit = -1
        self._checksums = {}
        self._epoch = self._counter("epoch", -1)
        # Of the present `fit`: epochs begun over all its epochs.
        self.progress = self._counter("progress", 1, "float32")
        # Drawn as Keras draws its layers' seeds: `keras.utils.set_random_seed` decides.
        self._shuffle_seed = self._counter("shuffle_seed", random.randint(1, 10**9))
        # Sums over the samples of an epoch: the logged values, the samples, and with an index:
        # out-of-range ones, and those whose class changed.
        self._sums = keras.Variable(
            np.zeros(len(self.logged) + 1 + 2 * self.needs_sample_index),
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="sum",
            synchronization="on_read",
            name="sums",
        )
        self._device_stage = DeviceStage()
        if self.needs_sample_index:
            self._label_table = LabelTable(name="label_table")
        if student.built:
            self.student_is_built()

    # === What a method overrides ===

    def guidance(self, step: Step) -> Guidance | None:
        """Hook 1: what guidance adds to the loss; None for the compiled loss only."""
        return None

    def record(self, step: Step, guidance: Guidance | None) -> None:
        """Hook 2: stores what later steps need of this one."""

    def after_update(self) -> None:
        """Hook 3: follows the update of the student's weights."""

    def on_epoch_start(self, epoch: int) -> None:
        """Hook 4: before epoch 0, 1, ..., counted over all calls of `fit`."""

    def on_stage_start(self, stage: int) -> None:
        """Hook 5: before mini-generation 0, 1, ..., after hook 4."""

    # === Building and calling ===

    def _counter(self, name: str, value: int, dtype: str = "int32") -> keras.Variable:
        start = keras.initializers.Constant(value)
        return self.add_weight((), start, dtype=dtype, trainable=False, autocast=False, name=name)

    def build(self, input_shape: Any = None) -> None:
        """Builds the student where it is not built yet."""
        if not self.student.built:
            self.student.build(without_index(input_shape))
        self.student_is_built()

    def make_memory(self) -> None:
        """Makes the variables of tables and teachers, once; does nothing before sizes are known."""
        known = self.student.built and not (self.needs_sample_index and self.num_samples is None)
        if self.has_memory or not known:
            return
        self.student_is_built()
        self.find_positions()
        if self.needs_sample_index:
            checks.check_rows(self)
        memory.check(self)
        if self.taps:
            self.tapped()
        for layer in compat.layers_of(self):
            if hasattr(layer, "attach"):
                layer.attach(self)
        self.has_memory = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        network = self.tapped() if training and self.taps else self.student
        return network(self.inputs_of(inputs), training=training)

    def inputs_of(self, x: Any) -> Any:
        """The student's inputs, from all layouts of data."""
        if is_indexed(x) and "draws" in x:
            x, *_ = self._device_stage.apply(x)
        return without_index(x)

    @property
    def epoch(self) -> int:
        """The epoch in training or last trained, over all calls of `fit`; -1 before any."""
        return int(ops.convert_to_numpy(self._epoch))

    @property
    def shuffle_seed(self) -> int:
        """The seed of the order of arrays."""
        return int(ops.convert_to_numpy(self._shuffle_seed))

    @property
    def sample_tables(self) -> dict[str, SampleTable]:
        """Tables with a row per sample, by name; empty for a method without them."""
        layers = compat.layers_of(self) if self.has_memory else []
        return {layer.name: layer for layer in layers if isinstance(layer, SampleTable)}

    @property
    def has_softened_rows(self) -> bool:
        """Whether the method stores log-probabilities of its temperature."""
        return any(isinstance(it, SampleTable | ClassTable) for it in compat.layers_of(self))

    @property
    def metrics(self) -> list[keras.Metric]:
        """Compiled metrics, and those that the student updates in its own `call`."""
        return [*super().metrics, *compat.own_metrics(self.student)]

    # === The step ===

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        y_pred, features = taps.split(y_pred)
        guided = [self.of_guided(values) for values in (y, y_pred, sample_weight)]
        step = self._step(x, *guided, features)
        # `record` gets what the method returned.
        guidance = own = self.guidance(step)
        checks.check_guidance(self, guidance, step.logits)
        if self.drop_issues_after is not None:
            guidance = self.label_margins.drop(step, own, self._epoch)
        _, prediction, weights = guided
        if self.has_unlabelled:
            y, _, weights = self.labelled(y, y_pred, sample_weight)
        if guidance is not None and not (
            isinstance(guidance.task_weight, float | int) and guidance.task_weight == 1
        ):
            compiled_loss.check_task_weight(compiled_loss.reduction(self))
            shares = ops.convert_to_tensor(guidance.task_weight, "float32")
            if len(shares.shape):
                shares = self.positions.as_loss(shares, self._shape_of(prediction))
            if weights is not None:
                shares = shares * self._loss_weights(prediction, weights)
            weights = shares
        if weights is not guided[-1]:
            sample_weight = self.with_guided(sample_weight, weights, y_pred)
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if guidance is not None:
            added = self.reduced(guidance.loss, *guided[1:])
            loss = loss + ops.cast(added, loss.dtype)
        self.record(step, own)
        self._log(step, guidance)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y_pred, _ = taps.split(y_pred)
        if not self.has_unlabelled:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        y, share, weights = self.labelled(y, y_pred, sample_weight)
        compat.update_metrics(self, y, y_pred, share, weights)
        return self.get_metrics_result()

    def _step(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any, features: dict | None = None
    ) -> Step:
        logits, mask = self.shaped_logits_of(y_pred), compat.mask_of(y_pred)
        indexed, places, shape = is_indexed(x), self.positions, self._shape_of(y_pred)
        index = x["sample_index"] if indexed else None
        validated = indexed and "index_validated" in x
        if self.needs_sample_index:
            if not indexed:
                raise ValueError(checks.missing_index(x))
            if validated:
                index = ops.cast(index, "int32")
            else:
                index = sample_rows(index, logits, self.num_samples)
            index = places.index(index, self.num_samples)
        if mask is not None and places.axes:
            mask = places.values(mask, shape)
        if sample_weight is not None:
            sample_weight = places.values(ops.cast(sample_weight, "float32"), shape)
        mixing = x.get("mixing") if indexed else None
        checks.check_mixing(self, mixing)
        return Step(
            inputs=without_index(x),
            y=places.label_rows(y, self.student_units, mask),
            sample_index=index,
            logits=places.rows(logits),
            mask=mask,
            sample_weight=sample_weight,
            mixing=mixing,
            index_validated=validated,
            features=features or {},
        )

    def _log(self, step: Step, guidance: Guidance | None) -> None:
        """Adds the values of a step to the sums of the epoch."""
        zeros = ops.zeros_like(step.logits[:, 0])
        values = {} if guidance is None else {"distillation_loss": guidance.loss, **guidance.logs}
        if guidance is not None and step.sample_weight is not None:
            values["distillation_loss"] = guidance.loss * step.sample_weight
        columns = [ops.cast(values.get(name, zeros), "float32") for name in self.logged]
        columns.append(ops.ones_like(zeros))
        if step.mask is not None and self.positions.axes:
            inside = ops.cast(step.mask, "float32")
            columns = [ops.where(step.mask, column, 0.0) for column in columns[:-1]] + [inside]
        if self.needs_sample_index:
            out_of_range = changed = zeros
            if not step.index_validated:
                valid = in_range(step.sample_index, self.num_rows)
                out_of_range = ops.cast(~valid, "float32")
                if step.mixing is None:
                    classes = outputs.hard_classes_of(step.y, self.num_classes)
                    changed = self._label_table.update(step.sample_index, classes)
            # The samples are counted, not their positions.
            share = 1 / self.positions.count
            columns += [out_of_range * share, ops.cast(changed, "float32") * share]
        add(self._sums, ops.sum(ops.stack(columns), axis=-1))

    def train_step(self, *args):
        # TensorFlow: data -> logs. JAX: (state, data) -> (logs, state).
        *state, data = args
        batch = keras.utils.unpack_x_y_sample_weight(data)
        if is_indexed(batch[0]) and "draws" in batch[0]:
            with self._state(*state):
                data = self._device_stage.apply(*batch)
                batch = keras.utils.unpack_x_y_sample_weight(data)
        if type(self).before_update is not Distillation.before_update:
            if state:
                state = [self._changed(*state, self.before_update, *batch)]
            else:
                data = self._after(self.before_update(*batch), data)
        result = super().train_step(*state, data)
        if type(self).after_update is Distillation.after_update:
            return result
        if state:
            logs, state = result
            return logs, self._changed(state, self.after_update)
        self.after_update()
        return result

    def before_update(self, x: Any, y: Any, sample_weight: Any) -> Any:
        """Precedes the update of the student's weights; for methods that train two networks.

        On TensorFlow the step of the student waits for the tensor that it returns.
        """

    def evaluate(self, x=None, *args, **kwargs):
        checks.check_in_step(x)
        # Each of several processes evaluates all samples of arrays; their mean is the same.
        with processes.as_given(not hasattr(x, "element_spec")):
            return super().evaluate(x, *args, **kwargs)

    def predict(self, x=None, *args, **kwargs):
        checks.check_in_step(x)
        processes.check_alone("predict")
        return super().predict(x, *args, **kwargs)

    # === Serving ===

    @property
    def predicts_more_than_student(self) -> bool:
        """Whether `predict` does more than call the student."""
        return type(self).call is not Distillation.call
