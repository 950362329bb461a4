import numpy as np
import pytest

from keras_lstsd.backbones import resnet50
from tests.backbones.forward import Forward, trainable

IMAGES = np.random.default_rng(3).normal(size=(1, 8, 16, 3)).astype("float32")
pytestmark = pytest.mark.tensorflow  # The numbers do not depend on the backend.


def test_network_equals_the_formula_and_the_documented_size():
    network = resnet50(input_shape=(8, 16, 3))
    assert trainable(network) == 23_705_252
    forward = Forward(network)
    x = forward.bn_relu(forward.conv(IMAGES, "stem"), "stem")
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(1, blocks + 1):
            name, stride = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
            y = forward.bn_relu(forward.conv(x, f"{name}_conv1"), f"{name}_conv1")
            y = forward.bn_relu(forward.conv(y, f"{name}_conv2", stride), f"{name}_conv2")
            y = forward.bn(forward.conv(y, f"{name}_conv3"), f"{name}_conv3")
            if block == 1:
                x = forward.bn(forward.conv(x, f"{name}_shortcut", stride), f"{name}_shortcut")
            x = np.maximum(x + y, 0)
    assert x.shape == (1, 1, 2, 2048)
    forward.check(IMAGES, forward.logits(x))
