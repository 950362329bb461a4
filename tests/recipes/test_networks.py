import re

import keras
import numpy as np
import pytest

from keras_lstsd import schedules
from keras_lstsd.data import cifar100
from recipes.networks import NETWORKS, PAIRS, student


def test_the_pairs_are_those_of_the_paper():
    assert len(PAIRS) == len(set(PAIRS)) == 13
    assert {name for pair in PAIRS for name in pair} <= NETWORKS.keys()


@pytest.mark.parametrize(
    ("name", "epochs", "drops", "rate"),
    [
        ("resnet20", 164, (41, 82, 123), 0.1),
        ("densenet100", 300, (75, 150, 225), 0.1),
        ("resnet8x4", 240, (150, 180, 210), 0.05),
        ("mobilenet_v2", 240, (150, 180, 210), 0.01),
    ],
)
def test_rates_drop_in_the_epochs_of_the_papers(name, epochs, drops, rate):
    network = NETWORKS[name]
    assert network.epochs == epochs
    schedule = schedules.StepDecay(network.learning_rate, epochs, network.drops)
    rates = [float(schedule(epoch)) for epoch in range(epochs)]
    assert rates[0] == pytest.approx(rate)
    found = [epoch for epoch in range(1, epochs) if rates[epoch] < 0.5 * rates[epoch - 1]]
    assert tuple(found) == drops


@pytest.mark.tensorflow  # The numbers do not depend on the backend.
@pytest.mark.parametrize("name", ["resnet8x4", "resnet20_b", "wrn_16_2", "shufflenet_v2"])
def test_networks_are_built_with_their_name_and_weight_decay(name):
    network = NETWORKS[name].build(num_classes=100, weight_decay=NETWORKS[name].weight_decay)
    kernels = [it for it in network.trainable_variables if it.regularizer is not None]
    assert {round(float(it.regularizer.l2), 9) for it in kernels} == {2.5e-4}
    assert network.output_shape == (None, 100)
    assert re.match(r"[a-z]+", network.name)


def test_the_student_normalizes_images():
    network = student("resnet8")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    core = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    normalized = (images.astype("float32") - cifar100.MEAN) / cifar100.STD
    expected = core.predict(normalized, verbose=0)
    assert expected.shape == (2, 100)
    np.testing.assert_allclose(network.predict(images, verbose=0), expected, atol=1e-4)
