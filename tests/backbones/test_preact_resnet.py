import keras
import numpy as np
import pytest

from keras_lstsd.backbones import preact_resnet
from keras_lstsd.backbones.preact_resnet import residual_unit
from tests.backbones.forward import Forward, trainable
from tests.models import slow


def unit(forward, x, name, strides):
    """He et al.'s unit: normalization and ReLU come before each convolution."""
    y = activated = forward.bn_relu(x, f"{name}_conv1")
    for number, stride in enumerate(strides, 1):
        if number > 1:
            y = forward.bn_relu(y, f"{name}_conv{number}")
        y = forward.conv(y, f"{name}_conv{number}", stride)
    if x.shape != y.shape:
        x = forward.conv(activated, f"{name}_shortcut", max(strides))
    return x + y


@pytest.mark.tensorflow  # test_wide_resnet.py covers the same units with fewer layers.
def test_network_with_18_layers_equals_the_papers_formula():
    network = preact_resnet(18, num_classes=5, input_shape=(8, 12, 3))
    images = np.random.default_rng(3).normal(size=(2, 8, 12, 3)).astype("float32")
    forward = Forward(network)
    x = forward.conv(images, "stem")
    for stage in (1, 2, 3, 4):
        x = unit(forward, x, f"stage{stage}_block1", (1 if stage == 1 else 2, 1))
        x = unit(forward, x, f"stage{stage}_block2", (1, 1))
    assert x.shape == (2, 1, 2, 512)
    forward.check(images, forward.logits(forward.bn_relu(x, "last")))


def test_bottleneck_units_equal_the_papers_formula():
    inputs = keras.Input((6, 6, 8))
    x = residual_unit(inputs, [(4, 1, 1), (4, 3, 2), (16, 1, 1)], 0.0, "first")
    x = residual_unit(x, [(4, 1, 1), (4, 3, 1), (16, 1, 1)], 0.0, "second")
    network = keras.Model(inputs, x)
    forward = Forward(network)
    features = np.random.default_rng(3).normal(size=(2, 6, 6, 8)).astype("float32")
    expected = unit(forward, features, "first", (1, 2, 1))
    expected = unit(forward, expected, "second", (1, 1, 1))
    assert expected.shape == (2, 3, 3, 16)
    forward.check(features, expected)


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
@pytest.mark.parametrize(
    ("depth", "blocks", "of_10", "of_100"),
    [
        (18, (2, 2, 2, 2), 11_172_170, 11_218_340),
        slow(34, (3, 4, 6, 3), 21_280_330, 21_326_500),
        (50, (3, 4, 6, 3), 23_513_162, 23_697_572),
        slow(101, (3, 4, 23, 3), 42_505_290, 42_689_700),
    ],
)
def test_number_of_parameters_equals_the_documented_one(depth, blocks, of_10, of_100):
    body, channels = 9 * 3 * 64, 64
    for filters, count in zip((64, 128, 256, 512), blocks, strict=True):
        out = filters if depth < 50 else 4 * filters
        for _ in range(count):
            body += 2 * channels + (channels * out if channels != out else 0)
            if depth < 50:
                body += 9 * channels * filters + 2 * filters + 9 * filters * filters
            else:
                body += channels * filters + 9 * filters**2 + 4 * filters + filters * out
            channels = out
    body += 2 * channels
    assert (of_10, of_100) == (body + (channels + 1) * 10, body + (channels + 1) * 100)
    assert trainable(preact_resnet(depth)) == of_100


@pytest.mark.parametrize("depth", [20, "18"])
def test_other_depths_are_rejected(depth):
    with pytest.raises(ValueError, match=r"Received: depth=.*18, 34, 50, 101.*preact_resnet\(18\)"):
        preact_resnet(depth)
