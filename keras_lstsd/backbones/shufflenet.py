"""ShuffleNets for small images: V1 (Zhang et al. 2018) and V2 (Ma et al. 2018)."""

import keras
from keras import layers

from keras_lstsd.backbones.layers import (
    TORCH,
    batch_norm,
    batch_norm_relu,
    convolution,
    depthwise,
    logits,
)

V1_FILTERS, V1_BLOCKS = (240, 480, 960), (4, 8, 4)
V2_FILTERS, V2_BLOCKS, V2_LAST = (116, 232, 464), (4, 8, 4), 1024


def shufflenet_v1(
    num_classes: int = 100,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weight_decay: float = 5e-4,
    groups: int = 3,
    name: str | None = None,
) -> keras.Model:
    """ShuffleNetV1 with the first stride for small images.

    A 1x1 convolution with 24 filters is followed by stages of 240, 480 and 960 filters with 4, 8
    and 4 units:

        y = bn(gconv1x1(relu(bn(depthwise3x3(shuffle(relu(bn(gconv1x1(x)))))))))

    where gconv has `groups` groups of channels. The output is relu(x + y). The first unit of a
    stage has stride 2; its output is relu of y beside the 3x3 average of x. Global average pooling
    and one dense layer follow.

    Trainable parameters with 100 classes: 949,258.

    Args:
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        groups: groups of channels in 1x1 convolutions; 3 divides all numbers of filters.
        name: the name of the model; None: "shufflenet_v1".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for a number of classes that is not a positive integer.

    Example:
        >>> student = keras_lstsd.backbones.shufflenet_v1()

    Source: the network of Tian et al. 2020, "Contrastive Representation Distillation", and its
    code, after Zhang et al. 2018, table 1.

    Differences from the paper: the first layer is a 1x1 convolution without pooling, and ReLU
    follows the depthwise convolution, as in that code. Weight decay applies to kernels only.
    """
    images = keras.Input(input_shape, name="images")
    x = _conv_relu(images, 24, "stem", weight_decay)
    for stage, (filters, units) in enumerate(zip(V1_FILTERS, V1_BLOCKS, strict=True), 1):
        for unit in range(1, units + 1):
            x = _unit_v1(x, filters, unit == 1, groups, weight_decay, f"stage{stage}_unit{unit}")
    return keras.Model(images, logits(x, num_classes, weight_decay), name=name or "shufflenet_v1")


def _unit_v1(x, filters, is_first, groups, weight_decay, name):
    # The average of x is a part of the first unit's filters.
    filters -= x.shape[-1] if is_first else 0
    before = 1 if x.shape[-1] == 24 else groups
    y = _conv_relu(x, filters // 4, f"{name}_conv1", weight_decay, before)
    y = _shuffled(y, before, name)
    y = depthwise(y, 3, f"{name}_depthwise", weight_decay, 2 if is_first else 1)
    y = batch_norm_relu(y, f"{name}_depthwise")
    y = _conv(y, filters, f"{name}_conv2", weight_decay, groups)
    if is_first:
        x = layers.ZeroPadding2D(1, "channels_last", name=f"{name}_pool_padding")(x)
        x = layers.AveragePooling2D(3, 2, "valid", "channels_last", f"{name}_pool")(x)
        y = layers.Concatenate(name=f"{name}_join")([y, x])
    else:
        y = layers.Add(name=f"{name}_add")([y, x])
    return layers.ReLU(name=f"{name}_relu")(y)


def shufflenet_v2(
    num_classes: int = 100,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weight_decay: float = 5e-4,
    name: str | None = None,
) -> keras.Model:
    """ShuffleNetV2 of width 1 with the first stride for small images.

    A 1x1 convolution with 24 filters is followed by stages of 116, 232 and 464 filters with 4, 8
    and 4 units. A unit passes one half of its channels on, and computes of the other half

        y = relu(bn(conv1x1(bn(depthwise3x3(relu(bn(conv1x1(x))))))))

    then joins both and shuffles the channels. The first unit of a stage has stride 2; it computes
    y of all channels, and beside it relu(bn(conv1x1(bn(depthwise3x3(x))))). A 1x1 convolution with
    1024 filters, global average pooling and one dense layer follow.

    Trainable parameters with 100 classes: 1,355,528.

    Args:
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        name: the name of the model; None: "shufflenet_v2".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for a number of classes that is not a positive integer.

    Example:
        >>> student = keras_lstsd.backbones.shufflenet_v2()

    Source: the network of Tian et al. 2020, "Contrastive Representation Distillation", and its
    code, after Ma et al. 2018, table 5.

    Differences from the paper: the first layer is a 1x1 convolution without pooling, as in that
    code. Weight decay applies to kernels only.
    """
    images = keras.Input(input_shape, name="images")
    x = _conv_relu(images, 24, "stem", weight_decay)
    for stage, (filters, units) in enumerate(zip(V2_FILTERS, V2_BLOCKS, strict=True), 1):
        for unit in range(1, units + 1):
            x = _unit_v2(x, filters // 2, unit == 1, weight_decay, f"stage{stage}_unit{unit}")
    x = _conv_relu(x, V2_LAST, "last", weight_decay)
    return keras.Model(images, logits(x, num_classes, weight_decay), name=name or "shufflenet_v2")


def _unit_v2(x, half, is_first, weight_decay, name):
    stride = 2 if is_first else 1
    if is_first:
        kept = depthwise(x, 3, f"{name}_left_depthwise", weight_decay, stride)
        kept = batch_norm(kept, f"{name}_left_depthwise_bn")
        kept = _conv_relu(kept, half, f"{name}_left_conv", weight_decay)
    else:
        kept, x = keras.ops.split(x, 2, axis=-1)
    y = _conv_relu(x, half, f"{name}_conv1", weight_decay)
    y = depthwise(y, 3, f"{name}_depthwise", weight_decay, stride)
    y = batch_norm(y, f"{name}_depthwise_bn")
    y = _conv_relu(y, half, f"{name}_conv2", weight_decay)
    return _shuffled(layers.Concatenate(name=f"{name}_join")([kept, y]), 2, name)


def _conv(x, filters, name, weight_decay, groups=1):
    x = convolution(x, filters, 1, name, weight_decay, groups=groups, initializer=TORCH)
    return batch_norm(x, f"{name}_bn")


def _conv_relu(x, filters, name, weight_decay, groups=1):
    return layers.ReLU(name=f"{name}_relu")(_conv(x, filters, name, weight_decay, groups))


def _shuffled(x, groups, name):
    """Channel i of group g becomes channel g of group i."""
    if groups == 1:
        return x
    _, height, width, channels = x.shape
    x = layers.Reshape((height, width, groups, channels // groups), name=f"{name}_groups")(x)
    x = layers.Permute((1, 2, 4, 3), name=f"{name}_shuffle")(x)
    return layers.Reshape((height, width, channels), name=f"{name}_shuffled")(x)
