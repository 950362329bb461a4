"""ResNeXts for CIFAR (residual networks with aggregated transformations), Xie et al. 2017."""

import keras

from keras_lstsd.backbones.layers import (
    batch_norm,
    batch_norm_relu,
    blocks_per_stage,
    convolution,
    logits,
    positions,
)
from keras_lstsd.checks import count


def resnext(
    depth: int = 29,
    cardinality: int = 8,
    base_width: int = 64,
    num_classes: int = 100,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    weight_decay: float = 5e-4,
    name: str | None = None,
) -> keras.Model:
    """A ResNeXt for small images, such as ResNeXt-29, 8x64d.

    The network has a 3x3 convolution with 64 filters, batch normalization and ReLU, then stages
    s = 0, 1, 2 of n = (depth - 2) / 9 blocks each:

        y = relu(shortcut(x) + bn(conv1x1(relu(bn(grouped3x3(relu(bn(conv1x1(x)))))))))

    Each of the `cardinality` groups has 2^s * `base_width` filters; the last convolution of a
    block has 2^s * 256 filters. Global average pooling and one dense layer follow. The second and
    the third stage start with stride 2 in the grouped convolution. The shortcut of a stage's first
    block is a 1x1 convolution with batch normalization (option B).

    Trainable parameters (10 classes, 100 classes): ResNeXt-29, 8x64d 34,426,698, 34,518,948.

    Args:
        depth: number of layers with kernels, without projections: 9n + 2.
        cardinality: number of groups of the 3x3 convolutions.
        base_width: number of filters of a group in the first stage.
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
            The default is the paper's; DUPS trains with 1e-4.
        name: the name of the model; None: "resnext<depth>_<cardinality>x<base_width>d".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for a depth that is not 9n + 2, and for a cardinality, a width or a number of
            classes that is not a positive integer.

    Example:
        >>> student = keras_lstsd.backbones.resnext(depth=29, cardinality=4, base_width=8)

    Source: Xie et al. 2017, "Aggregated Residual Transformations for Deep Neural Networks", section
    5.3 and its Torch code.

    Differences from the paper: weight decay applies to kernels only; in the Torch code it applies
    to all parameters.
    """
    blocks = blocks_per_stage(depth, 9, 2, "resnext(29)")
    groups, base = count("cardinality", cardinality), count("base_width", base_width)
    images = keras.Input(input_shape, name="images")
    x = batch_norm_relu(convolution(images, 64, 3, "stem", weight_decay), "stem")
    for stage, stride, block in positions([blocks] * 3):
        widths = groups * base * 2 ** (stage - 1), 128 * 2**stage
        x = _block(x, *widths, groups, stride, weight_decay, block)
    name = name or f"resnext{depth}_{cardinality}x{base_width}d"
    return keras.Model(images, logits(x, num_classes, weight_decay), name=name)


def _block(x, inner, outer, groups, stride, weight_decay, name):
    y = convolution(x, inner, 1, f"{name}_conv1", weight_decay)
    y = batch_norm_relu(y, f"{name}_conv1")
    y = convolution(y, inner, 3, f"{name}_conv2", weight_decay, stride, groups)
    y = batch_norm_relu(y, f"{name}_conv2")
    y = batch_norm(convolution(y, outer, 1, f"{name}_conv3", weight_decay), f"{name}_conv3_bn")
    if x.shape[-1] != outer:
        x = convolution(x, outer, 1, f"{name}_shortcut", weight_decay, stride)
        x = batch_norm(x, f"{name}_shortcut_bn")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))
