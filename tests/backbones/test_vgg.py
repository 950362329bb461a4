import numpy as np
import pytest

from keras_lstsd.backbones import vgg
from tests.backbones.forward import Forward, trainable

IMAGES = np.random.default_rng(3).normal(size=(2, 8, 16, 3)).astype("float32")
pytestmark = pytest.mark.tensorflow  # The numbers do not depend on the backend.


@pytest.mark.parametrize("depth", [8, 13])
def test_network_equals_the_formula(depth):
    network = vgg(depth, num_classes=5, input_shape=(8, 16, 3))
    forward, x = Forward(network), IMAGES
    for stage in range(1, 6):
        for number in range(1, 2 + (depth == 13)):
            name = f"stage{stage}_conv{number}"
            x = forward.bn_relu(forward.conv(x, name), name)
        if stage < 4:
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
    assert x.shape == (2, 1, 2, 512)
    forward.check(IMAGES, forward.logits(x))


def test_number_of_parameters_equals_the_documented_one():
    # Those of the published code, without the biases of convolutions.
    assert trainable(vgg(8)) == 3_965_028 - (64 + 128 + 256 + 512 + 512) == 3_963_556
    assert trainable(vgg(13)) == 9_462_180 - 2 * (64 + 128 + 256 + 512 + 512) == 9_459_236


@pytest.mark.parametrize("depth", [11, 16, "8"])
def test_other_depths_are_rejected(depth):
    with pytest.raises(ValueError, match=r"Received: depth=.*Expected.*vgg\(8\)"):
        vgg(depth)
