"""Generated cases: how many there are, what they draw from, and the models that they share."""

import functools
import re
from collections.abc import Callable

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from keras import ops

from keras_lstsd.data import sample_order
from recipes.methods import METHODS
from tests import oracles
from tests.models import wrapped
from tests.settings import OFF, TINY

on_jax = keras.backend.backend() == "jax"
SAMPLES, FEATURES, CLASSES, RATE = 6, 4, 3, 0.1
LOG_FLOOR, SMALLEST = -6e4, float(np.finfo("float32").tiny)
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool")
EXTREMES = (0.0, 1.0, -1.0, 15.0, -80.0, 80.0, 1e4, -1e4, 1e6, -1e38, 1e38, -np.inf)
FAULTS = (np.inf, np.nan)
WEIGHTS = (0.0, 1.0, -1.0, 2.5)
EXPLAINED = re.compile(r"Received.*Expected", re.DOTALL)
NOT_FINITE = "The loss or the weights are not finite. Received: .*Expected"
GENERATED = {}

X = np.random.default_rng(0).normal(size=(SAMPLES, FEATURES)).astype("float32")
Y = np.arange(SAMPLES) % CLASSES
EVERYONE = np.arange(SAMPLES)
seeds = st.integers(0, 2**32 - 1)


def cases(number: int, times: int = 1) -> Callable:
    """So many generated cases of a test, `times` its parameters; `GENERATED` counts them.

    A failure is shortened, but not explained, which takes minutes.
    """
    # JAX compiles in the first cases.
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    setting = settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=slow,
    )

    def count(test):
        GENERATED[test.__name__] = number * times
        return setting(test)

    return count


def numpy(*tensors):
    arrays = tuple(ops.convert_to_numpy(tensor) for tensor in tensors)
    return arrays if len(arrays) > 1 else arrays[0]


def last_of(index):
    """Where each index occurs last, by index: that row is stored, finite or not."""
    return {i: place for place, i in enumerate(np.asarray(index).tolist())}


def around(size):
    """Indices in `[0, size)` and beyond its ends."""
    inside = st.integers(0, size - 1)
    return inside | st.sampled_from([-1, -size, size, size + 1, 2**31 - 1, -(2**31)])


@st.composite
def logits(draw, entries=EXTREMES, size=4):
    chosen = st.lists(st.sampled_from(entries), min_size=CLASSES, max_size=CLASSES)
    return np.array(draw(st.lists(chosen, min_size=size, max_size=size)))


def floored(values, temperature=1.0):
    """ln softmax(z / T) in float64, at least LOG_FLOOR; NaN where there is no prediction."""
    with np.errstate(invalid="ignore"):
        return np.maximum(oracles.log_softmax(values / temperature), LOG_FLOOR)


@st.composite
def structures(draw, samples):
    """Inputs of all kinds and dtypes, one row per sample."""

    def leaf():
        shape = (samples, *draw(st.sampled_from(((), (2,), (2, 1), (0,)))))
        array = np.random.default_rng(draw(seeds)).integers(0, 9, shape)
        return array.astype(draw(st.sampled_from(DTYPES)))

    return {
        "array": lambda: leaf(),
        "dict": lambda: {"a": leaf(), "inputs": leaf()},
        "tuple": lambda: (leaf(), leaf()),
        "list": lambda: [leaf(), leaf()],
        "nested": lambda: {"a": {"b": leaf()}, "c": (leaf(), {"sample_index": leaf()})},
    }[draw(st.sampled_from(("array", "dict", "tuple", "list", "nested")))]()


@st.composite
def labels(draw, size, one_hot):
    """Class numbers, and the same in the form that the data has."""
    classes = np.array(draw(st.lists(st.integers(0, CLASSES - 1), min_size=size, max_size=size)))
    if draw(st.booleans()):  # All samples are of one class.
        classes = np.full(size, draw(st.integers(0, CLASSES - 1)))
    classes = classes.astype(int)
    dtype = draw(st.sampled_from(("uint8", "int8", "int32", "int64", "float16", "float32")))
    if one_hot:
        return classes, np.eye(CLASSES)[classes].astype(dtype)
    return classes, classes.astype(dtype).reshape(draw(st.sampled_from(((size,), (size, 1)))))


@st.composite
def problems(draw, epochs):
    """Inputs, labels and batches: rows drawn twice or never, batches of one or above N."""
    x = np.random.default_rng(draw(seeds)).integers(-2, 3, (SAMPLES, FEATURES))
    classes, y = draw(labels(SAMPLES, one_hot=False))
    rows = st.integers(0, SAMPLES - 1)
    sizes = st.sampled_from((1, 3, SAMPLES + 2))
    batch = sizes.flatmap(lambda size: st.lists(rows, min_size=size, max_size=size))
    batches = st.lists(batch.map(np.array), min_size=1, max_size=2)
    x = x.astype(draw(st.sampled_from(("float16", "float32", "float64", "int8", "int64"))))
    return x, classes, y, draw(st.lists(batches, min_size=epochs, max_size=epochs))


# === Models and batches ===


def linear_student():
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])


WITH_FEATURES = ("crd", "crd_prokt", "feature_matching")


def student_of(name):
    """A linear student; for methods with features one with a layer before the last."""
    student = linear_student()
    if name in WITH_FEATURES:
        body = keras.layers.Dense(FEATURES, name="body")
        student = keras.Sequential([keras.Input((FEATURES,)), body, *student.layers])
    return student


@functools.cache
def compiled(name, loss="sparse", off=False, eager=True, samples=SAMPLES, policy="float32"):
    """A model that all cases share, and the values that `fresh` restores."""
    keras.utils.set_random_seed(3)
    method = METHODS[name]
    arguments = method.arguments | TINY[name] | (OFF[name] if off else {})
    losses = {
        "sparse": keras.losses.SparseCategoricalCrossentropy,
        "one_hot": keras.losses.CategoricalCrossentropy,
    }
    keras.config.set_dtype_policy(policy)
    try:
        model = wrapped(method.cls, student_of(name), samples, **arguments)
        sgd = keras.optimizers.SGD(RATE)
        model.compile(sgd, losses[loss](from_logits=True), run_eagerly=eager)
    finally:
        keras.config.set_dtype_policy("float32")
    model.make_memory()
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    return model, [(variable, np.array(numpy(variable))) for variable in variables]


def fresh(*arguments, **options):
    model, values = compiled(*arguments, **options)
    for variable, value in values:
        variable.assign(value)
    # The arrays of the next case are of other samples.
    model._checksums = {}
    return model


class Batches(keras.utils.PyDataset):
    """Batches as they are given, with their faults."""

    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, step):
        return self.batches[step]


def batch_of(x, y, index, *weight):
    return {"inputs": x, "sample_index": np.asarray(index)}, y, *weight


def train(model, *batches, epochs=1):
    return model.fit(Batches(*batches), epochs=epochs, shuffle=False, verbose=0).history


def shuffled(model, epoch, batch_size):
    """The batches of row numbers that `fit` draws from arrays."""
    order = sample_order(int(numpy(model._shuffle_seed)), epoch, SAMPLES)
    return [order[i : i + batch_size] for i in range(0, SAMPLES, batch_size)]


def assert_weights(model, kernel, bias, atol=1e-4):
    for found, expected in zip(model.student.get_weights(), (kernel, bias), strict=True):
        np.testing.assert_allclose(found, expected, atol=atol)


def plain_sgd(x, classes, weight, kernel, bias, batches):
    """Weights and mean loss of an epoch of plain training, with sample weights."""
    losses = []
    for index in batches:
        values, slope = oracles.cross_entropy(x[index] @ kernel + bias, classes[index])
        losses.append(values * weight[index])
        slope = slope * weight[index][:, None]
        kernel, bias = oracles.sgd(kernel, bias, x[index], slope, RATE, 0)
    return kernel, bias, np.concatenate(losses).mean()
