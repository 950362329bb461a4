import numpy as np
import pytest

from keras_lstsd.backbones import cifar_densenet
from tests.backbones.forward import Forward, trainable


@pytest.mark.parametrize("bottleneck", [True, pytest.param(False, marks=pytest.mark.tensorflow)])
def test_network_equals_the_papers_formula(bottleneck):
    # Each block has one unit with bottlenecks and two without.
    network = cifar_densenet(10, 4, bottleneck, num_classes=5, input_shape=(8, 12, 3))
    images = np.random.default_rng(3).normal(size=(2, 8, 12, 3)).astype("float32")
    forward = Forward(network)
    x = forward.conv(images, "stem")
    assert x.shape[-1] == (8 if bottleneck else 16)
    for block in (1, 2, 3):
        for unit in (1,) if bottleneck else (1, 2):
            y = x
            for number in (1, 2) if bottleneck else (1,):
                name = f"block{block}_unit{unit}_conv{number}"
                y = forward.conv(forward.bn_relu(y, name), name)
            x = np.concatenate([x, y], -1)
        if block < 3:
            name = f"transition{block}"
            x = forward.conv(forward.bn_relu(x, name), name)
            x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    forward.check(images, forward.logits(forward.bn_relu(x, "last")))


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
@pytest.mark.parametrize(
    ("depth", "bottleneck", "of_10", "of_100"),
    [(100, True, 769_162, 800_032), (40, False, 1_019_722, 1_060_132)],
)
def test_number_of_parameters_equals_the_documented_one(depth, bottleneck, of_10, of_100):
    k = 12
    channels = 2 * k if bottleneck else 16
    body = 9 * 3 * channels
    for block in (1, 2, 3):
        for _ in range((depth - 4) // (6 if bottleneck else 3)):
            if bottleneck:
                body += 2 * channels + channels * 4 * k + 2 * 4 * k + 9 * 4 * k * k
            else:
                body += 2 * channels + 9 * channels * k
            channels += k
        body += 2 * channels
        if block < 3:
            fewer = channels // 2 if bottleneck else channels
            body += channels * fewer
            channels = fewer
    assert (of_10, of_100) == (body + (channels + 1) * 10, body + (channels + 1) * 100)
    assert trainable(cifar_densenet(depth, bottleneck=bottleneck)) == of_100


def test_invalid_depth_and_growth_rate_are_rejected():
    with pytest.raises(ValueError, match=r"depth=20\. Expected: 6n \+ 4 .*cifar_densenet\(100\)"):
        cifar_densenet(20)
    with pytest.raises(ValueError, match=r"depth=41\. Expected: 3n \+ 4 .*bottleneck=False"):
        cifar_densenet(41, bottleneck=False)
    with pytest.raises(ValueError, match="Received: growth_rate=0"):
        cifar_densenet(10, growth_rate=0)
