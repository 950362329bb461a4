"""Properties that all image networks share."""

from functools import partial

import keras
import numpy as np
import pytest

from keras_lstsd.backbones import cifar_densenet, cifar_resnet, resnext, wide_resnet
from keras_lstsd.backbones.layers import convolution, logits

# One block per stage. `preact_resnet` has the units of `wide_resnet`. The tests of each network use
# the same sizes, because JAX takes a second to compile the initializers of each shape.
NETWORKS = [
    pytest.param(partial(cifar_resnet, 8, num_classes=5), id="resnet"),
    pytest.param(partial(cifar_densenet, 10, 4, num_classes=5), id="densenet"),
    pytest.param(partial(wide_resnet, 10, 2, num_classes=5), id="wide"),
    # Even the smallest one is large: on JAX, only test_resnext.py compiles it.
    pytest.param(
        partial(resnext, 11, 2, 4, num_classes=5), id="resnext", marks=pytest.mark.tensorflow
    ),
]
every_network = pytest.mark.parametrize("make", NETWORKS)
# Tests that compute nothing do not depend on the backend.
structure = pytest.mark.tensorflow


@pytest.fixture
def policy():
    """Sets a dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@structure
@every_network
def test_weight_decay_and_normalization_follow_torch(make):
    network = make(weight_decay=0.02)
    decayed = [v for v in network.trainable_variables if v.regularizer is not None]
    assert {v.name for v in network.trainable_variables} == {"kernel", "gamma", "beta", "bias"}
    assert [v.path for v in decayed] == [
        v.path for v in network.trainable_variables if v.name == "kernel"
    ]
    # The gradient of l2 * kernel^2 is 2 * l2 * kernel.
    assert {float(v.regularizer.l2) for v in decayed} == {0.01}
    assert [v.path for v in network.trainable_variables if v.name == "bias"] == ["logits/bias"]
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
            assert layer.name.endswith("_bn")


@structure
@every_network
def test_image_size_channels_classes_and_name_are_free(make):
    for input_shape in ((28, 28, 1), (64, 64, 3)):
        network = make(num_classes=7, input_shape=input_shape, name="mine")
        assert (network.name, network.output.shape) == ("mine", (None, 7))


@pytest.mark.parametrize(
    "make",
    [
        NETWORKS[0],
        *(it._replace(marks=[*it.marks, pytest.mark.slow]) for it in NETWORKS[1:]),
    ],
)
def test_mixed_precision_step_updates_every_weight(make, policy):
    policy("mixed_bfloat16")
    normalization = keras.layers.Normalization(mean=[0.5, 0.5, 0.5], variance=[0.1, 0.1, 0.1])
    student = make(input_shape=(None, None, 3))
    network = keras.Sequential([keras.Input((8, 8, 3)), normalization, student])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # One network uses XLA; "auto" does not use it for TensorFlow on a CPU.
    jit_compile = student.name == "resnet8" or "auto"
    network.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit_compile)
    images = np.random.default_rng(0).uniform(size=(8, 8, 8, 3)).astype("float32")
    before = [v.numpy() for v in network.trainable_variables]
    assert np.isfinite(network.train_on_batch(images, np.arange(8) % 5))
    assert student.output.dtype == "float32"
    for variable, old in zip(network.trainable_variables, before, strict=True):
        assert variable.dtype == "float32"
        assert np.isfinite(variable.numpy()).all(), variable.path
        assert np.any(variable.numpy() != old), variable.path


def test_initial_weights_follow_the_torch_code():
    images = keras.Input((8, 8, 64))
    output = logits(convolution(images, 128, 3, "conv", 0.0, stride=2), 100, 0.0)
    network = keras.Model(images, output)
    (kernel,) = network.get_layer("conv").get_weights()
    deviation = (2 / (3 * 3 * 128)) ** 0.5
    np.testing.assert_allclose(kernel.std(), deviation, rtol=0.02)
    assert np.abs(kernel).max() > 3 * deviation
    kernel, bias = network.get_layer("logits").get_weights()
    bound = 128**-0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.02)
    np.testing.assert_array_equal(bias, 0)


def test_float16_logits_are_close_to_float32(policy):
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    full = cifar_resnet(8, 5)
    policy("mixed_float16")
    mixed = cifar_resnet(8, 5)
    mixed.set_weights(full.get_weights())
    expected = full.predict(images, verbose=0)
    computed = mixed.predict(images, verbose=0)
    np.testing.assert_allclose(computed, expected, atol=0.02 * expected.std())


@structure
@every_network
def test_image_data_format_of_keras_has_no_effect(make):
    def shapes():
        return [layer.output.shape for layer in make(input_shape=(32, 24, 3)).layers]

    expected = shapes()
    keras.config.set_image_data_format("channels_first")
    try:
        assert shapes() == expected
    finally:
        keras.config.set_image_data_format("channels_last")


def test_saved_network_has_only_keras_layers(tmp_path):
    network = cifar_resnet(8, 5)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    expected = network.predict(images, verbose=0)
    network.save(tmp_path / "network.keras")
    modules = {type(layer).__module__.split(".")[0] for layer in network.layers}
    assert modules == {"keras"}
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, rtol=1e-5)
