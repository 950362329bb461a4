"""DenseNets for CIFAR, Huang et al. 2017."""

import keras

from keras_lstsd.backbones.layers import batch_norm_relu, blocks_per_stage, convolution, logits
from keras_lstsd.checks import count


def cifar_densenet(
    depth: int,
    growth_rate: int = 12,
    bottleneck: bool = True,
    num_classes: int = 100,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    weight_decay: float = 1e-4,
    name: str | None = None,
) -> keras.Model:
    """A DenseNet for small images, such as DenseNet-BC-100 or DenseNet-40.

    The network has a 3x3 convolution and three dense blocks of n units each. Each unit appends
    k = `growth_rate` channels to its input:

        basic:      y = concat(x, conv3x3(relu(bn(x))))
        bottleneck: y = concat(x, conv3x3(relu(bn(conv1x1(relu(bn(x)))))))

    The 1x1 convolution has 4k filters. Between blocks there are batch normalization, ReLU, a 1x1
    convolution and 2x2 average pooling. Batch normalization, ReLU, global average pooling and one
    dense layer follow the last block. DenseNet-BC starts with 2k filters and halves the channels
    between blocks (compression 0.5). The basic DenseNet starts with 16 filters and keeps the
    channels between blocks.

    Trainable parameters (10 classes, 100 classes), k = 12: DenseNet-BC-100 769,162, 800,032;
    DenseNet-40 1,019,722, 1,060,132.

    Args:
        depth: number of layers with kernels: 6n + 4 with bottlenecks, 3n + 4 without.
        growth_rate: k, the channels that a unit appends.
        bottleneck: True for DenseNet-BC, False for the basic DenseNet.
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        name: the name of the model; None: "densenet_bc<depth>" or "densenet<depth>".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for a depth of another form, and for a growth rate or a number of classes that
            is not a positive integer.

    Example:
        >>> student = keras_lstsd.backbones.cifar_densenet(40, bottleneck=False)

    Source: Huang et al. 2017, "Densely Connected Convolutional Networks", sections 3 and 4.2, and
    its Torch code.

    Differences from the paper: weight decay applies to kernels only; in the Torch code it applies
    to all parameters. There is no dropout, which the paper uses without data augmentation.
    """
    if bottleneck:
        units = blocks_per_stage(depth, 6, 4, "cifar_densenet(100)")
    else:
        units = blocks_per_stage(depth, 3, 4, "cifar_densenet(40, bottleneck=False)")
    growth = count("growth_rate", growth_rate)
    images = keras.Input(input_shape, name="images")
    x = convolution(images, 2 * growth if bottleneck else 16, 3, "stem", weight_decay)
    for block in (1, 2, 3):
        for unit in range(1, units + 1):
            x = _unit(x, growth, bottleneck, weight_decay, f"block{block}_unit{unit}")
        if block < 3:
            x = _transition(x, bottleneck, weight_decay, f"transition{block}")
    x = logits(batch_norm_relu(x, "last"), num_classes, weight_decay)
    return keras.Model(images, x, name=name or f"densenet{'_bc' * bottleneck}{depth}")


def _unit(x, growth, bottleneck, weight_decay, name):
    y = batch_norm_relu(x, f"{name}_conv1")
    if bottleneck:
        y = convolution(y, 4 * growth, 1, f"{name}_conv1", weight_decay)
        y = batch_norm_relu(y, f"{name}_conv2")
    y = convolution(y, growth, 3, f"{name}_conv{1 + bottleneck}", weight_decay)
    return keras.layers.Concatenate(name=f"{name}_concat")([x, y])


def _transition(x, compress, weight_decay, name):
    filters = x.shape[-1] // 2 if compress else x.shape[-1]
    x = convolution(batch_norm_relu(x, name), filters, 1, name, weight_decay)
    return keras.layers.AveragePooling2D(2, 2, "valid", "channels_last", f"{name}_pool")(x)
