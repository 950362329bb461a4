"""Networks for CIFAR-100 by name, with the settings of their papers; and one for digits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras

from keras_lstsd import backbones
from keras_lstsd.data import cifar100, digits


@dataclass(frozen=True)
class Network:
    """A network with the settings of its paper."""

    build: Callable[..., keras.Model]
    epochs: int
    batch_size: int
    drops: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of the training after which the rate is divided by 10; none: one cosine."""
    learning_rate: float = 0.1
    weight_decay: float = 1e-4


# Jiang et al. 2020 (LSTSD).
LSTSD = {
    **{
        f"resnet{depth}": Network(partial(backbones.cifar_resnet, depth), 164, 128)
        for depth in (8, 20, 32, 56, 110)
    },
    "densenet100": Network(partial(backbones.cifar_densenet, 100), 300, 64),
}


def _of_dups(build: Callable[..., keras.Model], epochs: int = 160) -> Network:
    return Network(build, epochs, 64, drops=())


# Yang et al. 2021 (DUPS).
DUPS = {
    "densenet40": _of_dups(partial(backbones.cifar_densenet, 40, bottleneck=False), epochs=240),
    **{
        f"preact_resnet{depth}": _of_dups(partial(backbones.preact_resnet, depth))
        for depth in (18, 34, 50, 101)
    },
    "wide_resnet28": _of_dups(partial(backbones.wide_resnet, 28, 10)),
    "resnext29": _of_dups(backbones.resnext),
}


def _of_crd(build: Callable[..., keras.Model], learning_rate: float = 0.05) -> Network:
    # Divided by 10 after 150, 180 and 210 epochs.
    return Network(build, 240, 64, (0.625, 0.75, 0.875), learning_rate, weight_decay=5e-4)


def _resnet(depth: int, first: int = 16, width: int = 16) -> Network:
    filters = (first, width, 2 * width, 4 * width)
    return _of_crd(partial(backbones.cifar_resnet, depth, filters=filters, projections=True))


# Tian et al. 2020 (CRD) and Shi et al. 2021 (ProKT). Their ResNets have convolutions as shortcuts.
CRD = {
    **{f"resnet{depth}_b": _resnet(depth) for depth in (20, 32, 56, 110)},
    "resnet8x4": _resnet(8, first=32, width=64),
    "resnet32x4": _resnet(32, first=32, width=64),
    "wrn_16_2": _of_crd(partial(backbones.wide_resnet, 16, 2)),
    "wrn_40_1": _of_crd(partial(backbones.wide_resnet, 40, 1)),
    "wrn_40_2": _of_crd(partial(backbones.wide_resnet, 40, 2)),
    "vgg8": _of_crd(partial(backbones.vgg, 8)),
    "vgg13": _of_crd(partial(backbones.vgg, 13)),
    "resnet50": _of_crd(backbones.resnet50),
    "mobilenet_v2": _of_crd(backbones.mobilenet_v2, learning_rate=0.01),
    "shufflenet_v1": _of_crd(backbones.shufflenet_v1, learning_rate=0.01),
    "shufflenet_v2": _of_crd(backbones.shufflenet_v2, learning_rate=0.01),
}

NETWORKS = LSTSD | DUPS | CRD

# Teacher and student; Shi et al. 2021, Table 1.
PAIRS = (
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56_b", "resnet20_b"),
    ("resnet110_b", "resnet20_b"),
    ("resnet110_b", "resnet32_b"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "mobilenet_v2"),
    ("resnet50", "mobilenet_v2"),
    ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenet_v1"),
    ("resnet32x4", "shufflenet_v2"),
    ("wrn_40_2", "shufflenet_v1"),
)


def perceptron(units: int = 256, noise: bool = False) -> keras.Model:
    """A perceptron with two hidden layers, for the 8x8 digits."""
    on_images = [keras.layers.GaussianNoise(0.15)] if noise else []
    on_features = [keras.layers.Dropout(0.5)] if noise else []
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            *on_images,
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(units, activation="relu"),
            *on_features,
            keras.layers.Dense(digits.NUM_CLASSES, activation="softmax"),
        ]
    )


def student(network: str) -> keras.Model:
    """A network for CIFAR-100 after a normalization, for images as uint8 `[batch, 32, 32, 3]`."""
    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    normalized = keras.layers.Normalization(
        mean=cifar100.MEAN, variance=cifar100.STD**2, dtype="float32", name="normalized"
    )(images)
    settings = NETWORKS[network]
    core = settings.build(num_classes=cifar100.NUM_CLASSES, weight_decay=settings.weight_decay)
    return keras.Model(images, core(normalized), name=network)
