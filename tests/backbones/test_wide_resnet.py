import numpy as np
import pytest

from keras_lstsd.backbones import wide_resnet
from tests.backbones.forward import Forward, trainable
from tests.backbones.test_preact_resnet import unit


def test_network_equals_the_papers_formula():
    network = wide_resnet(10, 2, dropout=0.3, num_classes=5, input_shape=(8, 12, 3))
    images = np.random.default_rng(3).normal(size=(2, 8, 12, 3)).astype("float32")
    forward = Forward(network)
    x = forward.conv(images, "stem")
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        x = unit(forward, x, f"stage{stage}_block1", (stride, 1))
    assert x.shape == (2, 2, 3, 128)
    forward.check(images, forward.logits(forward.bn_relu(x, "last")))


def test_dropout_precedes_the_second_convolution():
    network = wide_resnet(10, 2, dropout=0.3, num_classes=5)
    for stage in (1, 2, 3):
        dropout = network.get_layer(f"stage{stage}_block1_dropout")
        assert dropout.rate == 0.3
        assert dropout.input is network.get_layer(f"stage{stage}_block1_conv2_relu").output
        assert dropout.output is network.get_layer(f"stage{stage}_block1_conv2").input


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
@pytest.mark.parametrize(
    ("depth", "width", "of_10", "of_100"),
    [
        (16, 2, 691_674, 703_284),
        (16, 4, 2_748_890, 2_772_020),
        (28, 10, 36_479_194, 36_536_884),
        (40, 1, 563_930, 569_780),
        (40, 2, 2_243_546, 2_255_156),
    ],
)
def test_number_of_parameters_equals_the_documented_one(depth, width, of_10, of_100):
    n = (depth - 4) // 6
    body, channels = 9 * 3 * 16, 16
    for filters in (16 * width, 32 * width, 64 * width):
        kernels = 9 * channels * filters + (2 * n - 1) * 9 * filters**2
        kernels += channels * filters * (channels != filters)
        body += kernels + 2 * channels + (2 * n - 1) * 2 * filters
        channels = filters
    body += 2 * channels
    assert (of_10, of_100) == (body + (channels + 1) * 10, body + (channels + 1) * 100)
    assert trainable(wide_resnet(depth, width)) == of_100


def test_invalid_depth_and_width_are_rejected():
    with pytest.raises(ValueError, match=r"depth=20\. Expected: 6n \+ 4 .*wide_resnet\(28\)"):
        wide_resnet(20)
    with pytest.raises(ValueError, match="Received: width=0"):
        wide_resnet(10, width=0)
