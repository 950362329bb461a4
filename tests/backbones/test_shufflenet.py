import keras
import numpy as np
import pytest

from keras_lstsd.backbones import shufflenet_v1, shufflenet_v2
from tests.backbones.forward import Forward, trainable

IMAGES = np.random.default_rng(3).normal(size=(2, 8, 16, 3)).astype("float32")
pytestmark = pytest.mark.tensorflow  # The numbers do not depend on the backend.


def shuffled(x, groups):
    """Channel i of group g becomes channel g of group i."""
    width = x.shape[-1] // groups
    return np.concatenate([x[..., i::width] for i in range(width)], -1)


def relu(x):
    return np.maximum(x, 0)


def test_a_shuffle_takes_from_each_group_in_turn():
    np.testing.assert_array_equal(shuffled(np.arange(6), 3), [0, 2, 4, 1, 3, 5])


def test_v1_equals_the_formula_and_the_documented_size():
    network = shufflenet_v1(input_shape=(8, 16, 3))
    assert trainable(network) == 949_258
    forward = Forward(network)
    x = forward.bn_relu(forward.conv(IMAGES, "stem"), "stem")
    for stage, (filters, units) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
        for unit in range(1, units + 1):
            name, stride = f"stage{stage}_unit{unit}", 2 if unit == 1 else 1
            groups = 1 if stage == unit == 1 else 3
            y = forward.conv(x, f"{name}_conv1", groups=groups)
            y = shuffled(forward.bn_relu(y, f"{name}_conv1"), groups)
            y = forward.depthwise(y, f"{name}_depthwise", stride)
            y = forward.bn_relu(y, f"{name}_depthwise")
            y = forward.bn(forward.conv(y, f"{name}_conv2", groups=3), f"{name}_conv2")
            y = np.concatenate([y, forward.average_pool(x)], -1) if unit == 1 else x + y
            x = relu(y)
            assert x.shape[-1] == filters
    assert x.shape == (2, 1, 2, 960)
    forward.check(IMAGES, forward.logits(x))


def test_v2_equals_the_formula_and_the_documented_size():
    network = shufflenet_v2(input_shape=(8, 16, 3))
    assert trainable(network) == 1_355_528
    forward = Forward(network)

    def conv_relu(x, name):
        return forward.bn_relu(forward.conv(x, name), name)

    def depthwise(x, name, stride):
        return forward.bn(forward.depthwise(x, name, stride), name)

    x = conv_relu(IMAGES, "stem")
    for stage, (filters, units) in enumerate(((116, 4), (232, 8), (464, 4)), 1):
        for unit in range(1, units + 1):
            name, stride = f"stage{stage}_unit{unit}", 2 if unit == 1 else 1
            if unit == 1:
                left = conv_relu(depthwise(x, f"{name}_left_depthwise", 2), f"{name}_left_conv")
            else:
                left, x = x[..., : filters // 2], x[..., filters // 2 :]
            y = depthwise(conv_relu(x, f"{name}_conv1"), f"{name}_depthwise", stride)
            y = conv_relu(y, f"{name}_conv2")
            x = shuffled(np.concatenate([left, y], -1), 2)
            assert x.shape[-1] == filters
    assert x.shape == (2, 1, 2, 464)
    forward.check(IMAGES, forward.logits(conv_relu(x, "last")))


@pytest.mark.slow
def test_a_saved_network_is_loaded_without_this_library(tmp_path):
    network = shufflenet_v2(input_shape=(8, 16, 3))
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), network.predict(IMAGES, verbose=0)
    )
    layers = {type(layer).__module__.split(".")[0] for layer in network.layers}
    assert layers == {"keras"}
