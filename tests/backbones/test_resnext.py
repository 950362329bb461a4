import numpy as np
import pytest

from keras_lstsd.backbones import resnext
from tests.backbones.forward import Forward, trainable


def test_network_equals_the_papers_formula():
    network = resnext(11, 2, 4, num_classes=5, input_shape=(8, 12, 3))
    images = np.random.default_rng(3).normal(size=(2, 8, 12, 3)).astype("float32")
    forward = Forward(network)
    x = forward.bn_relu(forward.conv(images, "stem"), "stem")
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        name = f"stage{stage}_block1"
        y = forward.bn_relu(forward.conv(x, f"{name}_conv1"), f"{name}_conv1")
        y = forward.bn_relu(forward.conv(y, f"{name}_conv2", stride, groups=2), f"{name}_conv2")
        y = forward.bn(forward.conv(y, f"{name}_conv3"), f"{name}_conv3")
        x = forward.bn(forward.conv(x, f"{name}_shortcut", stride), f"{name}_shortcut")
        x = np.maximum(x + y, 0)
    assert x.shape == (2, 2, 3, 1024)
    forward.check(images, forward.logits(x))


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
def test_number_of_parameters_equals_the_documented_one():
    body, channels = 9 * 3 * 64 + 2 * 64, 64
    for out in (256, 512, 1024):
        group = out // 4  # 64, 128 and 256 filters in each of 8 groups
        for block in range(3):
            body += channels * 8 * group + 8 * 9 * group**2 + 8 * group * out
            body += 2 * (8 * group + 8 * group + out)
            if block == 0:
                body += channels * out + 2 * out
            channels = out
    assert body + (channels + 1) * 10 == 34_426_698
    assert trainable(resnext()) == body + (channels + 1) * 100 == 34_518_948


def test_invalid_depth_cardinality_and_width_are_rejected():
    with pytest.raises(ValueError, match=r"depth=30\. Expected: 9n \+ 2 .*resnext\(29\)"):
        resnext(30)
    with pytest.raises(ValueError, match="Received: cardinality=0"):
        resnext(11, cardinality=0)
    with pytest.raises(ValueError, match="Received: base_width=2.5"):
        resnext(11, base_width=2.5)
