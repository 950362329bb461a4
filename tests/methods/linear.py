"""A small problem with a linear student, on which methods are compared with simulations."""

import keras
import numpy as np

from keras_lstsd.data import sample_order

SAMPLES, FEATURES, CLASSES, BATCH, GENERATION, EPOCHS = 23, 5, 4, 5, 2, 6
RATE = 0.3
LSTSD_SETTINGS = {
    "mini_generation_epochs": GENERATION,
    "long_weight": 2.4,
    "short_weight": 4.0,
    "temperature": 2.0,
}


def problem():
    draw = np.random.default_rng(3)
    x = draw.normal(size=(SAMPLES, FEATURES)).astype("float32")
    return x, draw.integers(0, CLASSES, SAMPLES)


def irregular_batches():
    """Per epoch: a sample drawn twice, one never drawn (22), one that epoch 3 skips, a last
    partial batch."""
    epochs = []
    for epoch in range(EPOCHS):
        order = sample_order(5, epoch, SAMPLES - 1)
        if epoch == 3:
            order = order[order != 7]
        order = np.append(order, order[0])
        epochs.append([order[i : i + BATCH] for i in range(0, len(order), BATCH)])
    return epochs


class Given(keras.utils.PyDataset):
    """Gives the listed batches, epoch by epoch, with sample weights where there are some."""

    def __init__(self, x, y, epochs, weights=None):
        super().__init__()
        self.x, self.y, self.epochs, self.epoch = x, y, epochs, 0
        self.weights = weights

    def __len__(self):
        return len(self.epochs[self.epoch])

    def __getitem__(self, step):
        index = np.asarray(self.epochs[self.epoch][step], "int32")
        batch = {"inputs": self.x[index], "sample_index": index}, self.y[index]
        return batch if self.weights is None else (*batch, self.weights[index])


class OneEpoch(keras.callbacks.Callback):
    """Ends `fit` after an epoch, so that it knows of later ones and does not train them."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def linear_student():
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])


def rows_of(table):
    """A table as the simulations have it: NaN where nothing was written."""
    rows, known = table.numpy()
    return np.where(known[:, None], rows, np.nan)


def follow(
    simulate,
    cls,
    memory,
    jit_compile,
    simulated=None,
    weights=None,
    student=None,
    compiled=None,
    batches=None,
    **settings,
):
    """Trains `cls` and its simulation on the same batches and compares them after every epoch.

    `memory(model)` gives the memory of the model by the simulation's names. `settings` go to the
    method and, where `simulated` is None, to the simulation; a teacher is one of them. `weights`
    are sample weights for both, and `compiled` more arguments of `compile`. All epochs are of one
    `fit`, as the method sees it: each call trains one of them and knows of all.
    """
    x, y = problem()
    batches = batches or irregular_batches()
    student = student or linear_student()
    kernel, bias = student.get_weights()
    simulated = (simulated or settings) | ({} if weights is None else {"weights": weights})
    expected = simulate(x, y, batches, kernel, bias, RATE, **simulated)
    size = {"num_samples": SAMPLES} if cls.needs_sample_index else {}
    model = cls(student, **(size | settings))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"optimizer": keras.optimizers.SGD(RATE)} | (compiled or {})
    model.compile(loss=loss, jit_compile=jit_compile, **options)
    data = Given(x, y, batches, weights)
    for epoch, oracle in enumerate(expected):
        data.epoch = epoch
        logs = model.fit(
            data,
            initial_epoch=epoch,
            epochs=len(expected),
            shuffle=False,
            verbose=0,
            callbacks=[OneEpoch()],
        ).history
        assert set(logs) >= set(oracle.logs)
        for name, value in oracle.logs.items():
            np.testing.assert_allclose(logs[name], [value], atol=1e-5, err_msg=f"{name} {epoch}")
        found_kernel, found_bias = student.get_weights()
        np.testing.assert_allclose(found_kernel, oracle.kernel, atol=1e-5)
        np.testing.assert_allclose(found_bias, oracle.bias, atol=1e-5)
        found = memory(model)
        assert set(found) == set(oracle.memory)
        for name, value in oracle.memory.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=f"{name} {epoch}")
    if cls.logged:
        assert abs(expected[-1].logs["distillation_loss"]) > 1e-3
    return expected


def nothing(model):
    """The memory of a method that has none."""
    return {}


def one_step(model, logits, labels):
    """The loss of one SGD step per row of logits, and its gradient with respect to them.

    `model` is a method around `identity_student`, whose outputs are then its kernel.
    """
    model.student.set_weights([np.asarray(logits, "float32")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss)
    samples = np.eye(len(logits), dtype="float32")
    logs = model.fit(
        samples, np.asarray(labels), batch_size=len(logits), shuffle=False, verbose=0
    ).history
    change = model.student.get_weights()[0] - np.asarray(logits, "float32")
    return logs, -change * len(logits)


def identity_student(rows, classes=CLASSES):
    """A student whose logits for the i-th unit vector are the i-th row of its kernel."""
    return keras.Sequential([keras.Input((rows,)), keras.layers.Dense(classes, use_bias=False)])


def weights_of(snapshot, prefix=""):
    """A snapshot's weights as the simulations have them: NaN before the first `take`."""
    kernel, bias = (np.array(copy.numpy()) for copy in snapshot.copies)
    if not snapshot.updates.numpy():
        kernel, bias = kernel * np.nan, bias * np.nan
    return {f"{prefix}kernel": kernel, f"{prefix}bias": bias}
