import numpy as np
import pytest

from keras_lstsd.backbones import mobilenet_v2
from tests.backbones.forward import Forward, trainable

IMAGES = np.random.default_rng(3).normal(size=(2, 32, 16, 3)).astype("float32")
pytestmark = pytest.mark.tensorflow  # The numbers do not depend on the backend.


def test_network_equals_the_formula_and_the_documented_size():
    network = mobilenet_v2(input_shape=(32, 16, 3))
    assert trainable(network) == 812_836
    forward = Forward(network)
    x = forward.bn_relu(forward.conv(IMAGES, "stem", 2), "stem")
    shapes, stages = [], ((1, 1), (2, 1), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))
    for stage, (blocks, first) in enumerate(stages, 1):
        for block in range(1, blocks + 1):
            name, stride = f"stage{stage}_block{block}", first if block == 1 else 1
            y = forward.bn_relu(forward.conv(x, f"{name}_expand"), f"{name}_expand")
            y = forward.depthwise(y, f"{name}_depthwise", stride)
            y = forward.bn_relu(y, f"{name}_depthwise")
            y = forward.bn(forward.conv(y, f"{name}_project"), f"{name}_project")
            x = x + y if x.shape == y.shape and stride == 1 else y
        shapes.append(x.shape[1:])
    # Half of 16, 24, 32, 64, 96, 160 and 320 filters.
    assert [shape[2] for shape in shapes] == [8, 12, 16, 32, 48, 80, 160]
    assert [shape[0] for shape in shapes] == [16, 16, 8, 4, 4, 2, 2]
    forward.check(IMAGES, forward.logits(forward.bn_relu(forward.conv(x, "last"), "last")))


def test_initial_depthwise_kernels_have_the_deviation_of_the_published_code():
    network = mobilenet_v2()
    for block, channels in (("stage2_block2", 72), ("stage7_block1", 480)):
        (kernel,) = network.get_layer(f"{block}_depthwise").get_weights()
        np.testing.assert_allclose(kernel.std(), (2 / (9 * channels)) ** 0.5, rtol=0.1)


@pytest.mark.parametrize("width", [0, 0.05, float("nan")])
def test_a_width_without_filters_is_rejected(width):
    with pytest.raises(ValueError, match="(?s)`width`.*Received: width=.*Expected"):
        mobilenet_v2(width)
