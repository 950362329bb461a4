"""Training with the base class and with LSTSD, against plain Keras."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_lstsd import (
    LSTSD,
    Distillation,
    Guidance,
    MeanTeacher,
    SingleTeacherLSTSD,
    SnapshotDistillation,
)
from keras_lstsd.data import SampleBatches
from tests.models import wrapped

SAMPLES, CLASSES = 30, 3
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = draw.integers(0, CLASSES, SAMPLES)


def student(last="softmax", units=CLASSES, dropout=0.2):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(dropout),
            layers.Dense(units, activation=last),
        ]
    )


def compiled(model, **options):
    options = {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"} | options
    model.compile(**options)
    return model


def lstsd(**arguments):
    return LSTSD(student(), SAMPLES, **({"mini_generation_epochs": 1} | arguments))


def weights_equal(first, second):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# === Against plain Keras ===


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cls", [Distillation, LSTSD])
def test_without_weights_training_is_plain_fit_bit_for_bit(cls, jit_compile):
    """Against keras.Model.fit on the same batches, with dropout, L2, clipping and momentum."""

    class Plain(keras.utils.PyDataset):
        def __init__(self, batches):
            super().__init__()
            self.batches = batches

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, step):
            x, *rest = self.batches[step]
            return (x["inputs"], *rest)

    options = {
        "optimizer": keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.5),
        "metrics": ["accuracy"],
        "jit_compile": jit_compile,
    }
    settings = {"long_weight": 0, "short_weight": 0} if cls is LSTSD else {}
    weights = np.linspace(0.5, 2, SAMPLES).astype("float32")
    keras.utils.set_random_seed(1)
    model = wrapped(cls, student(), SAMPLES, mini_generation_epochs=1, **settings)
    compiled(model, **options).fit(X, Y, sample_weight=weights, batch_size=7, epochs=4, verbose=0)
    keras.utils.set_random_seed(1)
    options["optimizer"] = keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.5)
    plain = compiled(student(), **options)
    batches = SampleBatches(X, Y, weights, 7, seed=int(model._shuffle_seed.value))
    start = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch)
    )
    plain.fit(Plain(batches), epochs=4, verbose=0, shuffle=False, callbacks=[start])
    weights_equal(model.student, plain)


class AddsLoss(layers.Layer):
    """Adds a loss in its call, as a user's layer may."""

    def call(self, x):
        self.add_loss(0.05 * ops.mean(ops.square(x)))
        return x


def student_with_own_losses():
    keras.utils.set_random_seed(1)
    regularizers = keras.regularizers
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(
                8,
                "relu",
                kernel_regularizer=regularizers.L2(0.01),
                activity_regularizer=regularizers.L1(0.02),
            ),
            AddsLoss(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def with_own_losses(model):
    # Nothing is learned, so that the losses are those of one network.
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    history = model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0).history
    return history, model.evaluate(X, Y, verbose=0)


@functools.cache
def plain_with_own_losses():
    history, loss = with_own_losses(student_with_own_losses())
    return history["loss"], loss


ON = [
    (MeanTeacher, {}),
    (SingleTeacherLSTSD, {"mini_generation_epochs": 1}),
    (SnapshotDistillation, {"mini_generation_epochs": 1}),
    (LSTSD, {"mini_generation_epochs": 1}),
]


@pytest.mark.parametrize(("cls", "settings"), ON)
def test_guidance_is_added_to_a_students_own_losses(cls, settings):
    """`test_plain_training.py` compares trainings without guidance."""
    losses, evaluated = plain_with_own_losses()
    model = wrapped(cls, student_with_own_losses(), SAMPLES, **settings)
    history, found = with_own_losses(model)
    assert history["teacher_coverage"][-1] == 1
    without_guidance = np.subtract(history["loss"], history["distillation_loss"])
    np.testing.assert_allclose(without_guidance, losses, rtol=1e-5)
    np.testing.assert_allclose(found, evaluated, rtol=1e-5)


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(CLASSES, activation="softmax")

    def call(self, x):
        return self.dense(x)


class OwnComputeLoss(Net):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) + ops.sum(self.dense.kernel**2)


class OwnTrainStep(Net):
    def train_step(self, *args):
        return super().train_step(*args)


class OwnComputeMetrics(Net):
    def compute_metrics(self, *args, **kwargs):
        return super().compute_metrics(*args, **kwargs)


class Inherited(OwnComputeLoss):
    pass


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (OwnComputeLoss, "compute_loss"),
        (OwnTrainStep, "train_step"),
        (OwnComputeMetrics, "compute_metrics"),
        (Inherited, "compute_loss"),
    ],
)
def test_a_students_own_methods_that_are_not_called_are_named_in_a_warning(cls, name):
    network = cls()
    network(X)
    model = compiled(LSTSD(network, from_logits=False))
    with pytest.warns(UserWarning, match=rf"own `{name}` will not be called. Received.*Expected"):
        model.fit(X, Y, verbose=0)


# On JAX Keras itself cannot update a metric in a call.
@pytest.mark.tensorflow
def test_metrics_that_a_student_updates_in_its_call_are_logged():
    class Measured(Net):
        def __init__(self):
            super().__init__()
            self.largest = keras.metrics.Mean("largest")

        def call(self, x):
            self.largest.update_state(ops.max(x))
            return super().call(x)

    network = Measured()
    network(X)
    model = compiled(LSTSD(network, from_logits=False))
    history = model.fit(X, Y, batch_size=SAMPLES, verbose=0).history
    np.testing.assert_allclose(history["largest"], [X.max()], rtol=1e-6)


# === Hooks ===


class Doubled(Distillation):
    """The guidance is the compiled loss again."""

    def guidance(self, step):
        loss = keras.losses.sparse_categorical_crossentropy(step.y, step.logits, from_logits=True)
        return Guidance(loss)


@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight"]
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_guidance_is_reduced_as_the_compiled_loss(reduction, weighted, masked):
    """Same mask, sample weights and divisor."""
    first = [layers.Masking()] if masked else []
    network = keras.Sequential([keras.Input((4,)), *first, layers.Dense(CLASSES)])
    x = np.where(np.arange(SAMPLES)[:, None] % 3 == 0, 0, X)
    weights = np.linspace(0, 2, SAMPLES).astype("float32") if weighted else None
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    found = []
    for model in (Distillation(network), Doubled(network)):
        model.compile("sgd", loss)
        x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(Y)
        found.append(float(model.compute_loss(x, y, network(x), weights)))
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-5)


class Replaced(Doubled):
    """The guidance in place of the compiled loss, for every second sample."""

    def guidance(self, step):
        every_second = ops.cast(ops.arange(ops.shape(step.y)[0]) % 2, "float32")
        loss = super().guidance(step).loss
        return Guidance((1 - every_second) * loss, task_weight=every_second)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_task_weight_multiplies_the_compiled_loss_of_each_sample(weighted):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)])
    weights = np.linspace(0, 2, SAMPLES).astype("float32") if weighted else None
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = []
    for model in (Distillation(network), Replaced(network)):
        model.compile("sgd", loss)
        x, y = ops.convert_to_tensor(X), ops.convert_to_tensor(Y)
        found.append(float(model.compute_loss(x, y, network(x), weights)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_a_task_weight_and_a_divisor_of_sample_weights_are_rejected_together():
    network = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)])
    reduction = "mean_with_sample_weight"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model = compiled(Replaced(network), loss=loss)
    with pytest.raises(ValueError, match=r"divisor.*Received.*Expected: .*sum_over_batch_size"):
        model.fit(X, Y, verbose=0)


# === Runs ===


def test_a_second_fit_continues_where_the_first_stopped():
    keras.utils.set_random_seed(1)
    once = compiled(lstsd())
    history = once.fit(X, Y, batch_size=7, epochs=4, verbose=0).history
    keras.utils.set_random_seed(1)
    twice = compiled(lstsd())
    first = twice.fit(X, Y, batch_size=7, epochs=2, verbose=0).history
    second = twice.fit(X, Y, batch_size=7, epochs=4, initial_epoch=2, verbose=0).history
    assert first["loss"] + second["loss"] == history["loss"]
    assert twice.epoch == once.epoch == 3
    weights_equal(once, twice)


def test_keras_seed_determines_the_run():
    def run(seed):
        keras.utils.set_random_seed(seed)
        model = compiled(lstsd())
        return model.fit(X, Y, batch_size=7, epochs=3, verbose=0).history["loss"]

    assert run(1) == run(1) != run(2)


def test_guidance_is_logged_in_training_and_not_in_validation():
    model = compiled(lstsd(), metrics=["accuracy"])
    history = model.fit(X, Y, epochs=3, validation_split=0.2, verbose=0).history
    guidance = {"distillation_loss", "long_term_loss", "short_term_loss", "teacher_coverage"}
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"} | guidance
    assert history["teacher_coverage"] == [0, 1, 1]
    assert history["distillation_loss"][0] == 0 < history["distillation_loss"][1]
    assert set(model.evaluate(X, Y, verbose=0, return_dict=True)) == {"loss", "accuracy"}
    assert len(model.evaluate(X, Y, verbose=0)) == 2


def test_mixed_precision_scales_the_loss_and_trains():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        network = student(last=None)
        network.add(layers.Activation("softmax", dtype="float32"))
        model = compiled(LSTSD(network, SAMPLES, mini_generation_epochs=1))
        before = network.get_weights()[0]
        history = model.fit(X, Y, epochs=3, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.short_term.rows.dtype == "float32"
    assert 0.5 < history["loss"][-1] < 3
    assert np.abs(network.get_weights()[0] - before).max() > 1e-4


def test_evaluation_and_prediction_change_nothing_and_take_both_layouts():
    model = compiled(lstsd(), metrics=["accuracy"])
    model.fit(X, Y, epochs=2, verbose=0)
    before = [variable.numpy() for variable in model.variables]
    indexed = {"inputs": X, "sample_index": np.arange(SAMPLES, dtype="int32")}
    assert model.evaluate(X, Y, verbose=0) == model.evaluate(indexed, Y, verbose=0)
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.predict(indexed, verbose=0))
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.student.predict(X, verbose=0))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
