import keras
import numpy as np
import pytest

from keras_lstsd.backbones import cifar_resnet
from tests.backbones.forward import Forward, trainable
from tests.models import slow

IMAGES = np.random.default_rng(3).normal(size=(2, 8, 12, 3)).astype("float32")


def features(forward, shortcut):
    """What the last layer of a ResNet-8 takes; `shortcut(x, name, stride)` is that of a block."""
    x = forward.bn_relu(forward.conv(IMAGES, "stem"), "stem")
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        name = f"stage{stage}_block1"
        y = forward.bn_relu(forward.conv(x, f"{name}_conv1", stride), f"{name}_conv1")
        y = forward.bn(forward.conv(y, f"{name}_conv2"), f"{name}_conv2")
        x = np.maximum(y + shortcut(x, f"{name}_shortcut", stride), 0)
    return x


def test_network_equals_the_papers_formula():
    def shortcut(x, name, stride):
        x = x[:, ::stride, ::stride]
        return np.concatenate([x, np.zeros_like(x)], -1) if stride == 2 else x

    forward = Forward(cifar_resnet(8, num_classes=5, input_shape=(8, 12, 3)))
    x = features(forward, shortcut)
    assert x.shape == (2, 2, 3, 64)
    forward.check(IMAGES, forward.logits(x))


def test_shortcut_subsamples_and_appends_zeros():
    network = cifar_resnet(8, input_shape=(8, 12, 3))
    names = "stage1_block1_relu", "stage2_block1_shortcut_zeros"
    parts = keras.Model(network.input, [network.get_layer(name).output for name in names])
    before, after = parts.predict(IMAGES, verbose=0)
    assert after.shape == (2, 4, 6, 32)
    np.testing.assert_array_equal(after[..., :16], before[:, ::2, ::2])
    np.testing.assert_array_equal(after[..., 16:], 0)


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
@pytest.mark.parametrize(
    ("depth", "of_10", "of_100"),
    [
        (20, 269_722, 275_572),
        (32, 464_154, 470_004),
        slow(56, 853_018, 858_868),
        slow(110, 1_727_962, 1_733_812),
    ],
)
def test_number_of_parameters_equals_the_documented_one(depth, of_10, of_100):
    n = (depth - 2) // 6
    kernels = 9 * (3 * 16 + 2 * n * 16**2)
    for channels in (16, 32):
        kernels += 9 * (channels * 2 * channels + (2 * n - 1) * (2 * channels) ** 2)
    body = kernels + 2 * (16 + 2 * n * (16 + 32 + 64))
    assert (of_10, of_100) == (body + 65 * 10, body + 65 * 100)
    assert trainable(cifar_resnet(depth)) == of_100


def test_projections_and_filters_equal_the_formula():
    network = cifar_resnet(
        8, num_classes=5, input_shape=(8, 12, 3), filters=(4, 8, 16, 32), projections=True
    )
    forward = Forward(network)
    x = features(forward, lambda x, name, stride: forward.bn(forward.conv(x, name, stride), name))
    assert x.shape == (2, 2, 3, 32)
    forward.check(IMAGES, forward.logits(x))


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("depth", "filters", "of_100"),
    [
        (20, (16, 16, 32, 64), 278_324),
        (32, (16, 16, 32, 64), 472_756),
        slow(56, (16, 16, 32, 64), 861_620),
        slow(110, (16, 16, 32, 64), 1_736_564),
        (8, (32, 64, 128, 256), 1_233_540),
        (32, (32, 64, 128, 256), 7_433_860),
    ],
)
def test_networks_with_projections_have_the_published_number_of_parameters(depth, filters, of_100):
    assert trainable(cifar_resnet(depth, filters=filters, projections=True)) == of_100


@pytest.mark.parametrize("depth", [2, 18, 21, 20.5, "20"])
def test_other_depths_are_rejected(depth):
    with pytest.raises(ValueError, match="Received: depth="):
        cifar_resnet(depth)


def test_error_ends_with_a_valid_call():
    with pytest.raises(
        ValueError, match=r"Received: depth=18. Expected: 6n \+ 2.*cifar_resnet\(20"
    ):
        cifar_resnet(18)
    with pytest.raises(ValueError, match="num_classes"):
        cifar_resnet(20, num_classes=0)
