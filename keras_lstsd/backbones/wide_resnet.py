"""Wide ResNets for CIFAR, Zagoruyko and Komodakis 2016."""

import keras

from keras_lstsd.backbones.layers import (
    batch_norm_relu,
    blocks_per_stage,
    convolution,
    logits,
    positions,
)
from keras_lstsd.backbones.preact_resnet import residual_unit
from keras_lstsd.checks import count


def wide_resnet(
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
    num_classes: int = 100,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    weight_decay: float = 5e-4,
    name: str | None = None,
) -> keras.Model:
    """A wide ResNet for small images, such as WRN-28-10.

    The network has a 3x3 convolution with 16 filters, then stages of 16k, 32k and 64k filters
    with k = `width` and n = (depth - 4) / 6 pre-activation units each:

        y = shortcut(x) + conv3x3(dropout(relu(bn(conv3x3(relu(bn(x)))))))

    A last batch normalization with ReLU, global average pooling and one dense layer follow. The
    second and the third stage start with stride 2. In a unit that changes the channels, the
    shortcut is a 1x1 convolution of `relu(bn(x))`.

    Trainable parameters (10 classes, 100 classes): WRN-28-10 36,479,194, 36,536,884;
    WRN-16-2 with 100 classes 703,284, WRN-40-1 569,780, WRN-40-2 2,255,156.

    Args:
        depth: number of convolutions, 6n + 4, including one projection per stage.
        width: k, the factor of the filters.
        dropout: dropout rate between the two convolutions of a unit (0.3 in the paper).
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
            The default is the paper's; DUPS trains with 1e-4.
        name: the name of the model; None: "wide_resnet<depth>_<width>".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for a depth that is not 6n + 4, and for a width or a number of classes that is
            not a positive integer.

    Example:
        >>> student = keras_lstsd.backbones.wide_resnet(depth=16, width=4)

    Source: Zagoruyko and Komodakis 2016, "Wide Residual Networks", table 1 and its Torch code.

    Differences from the paper: weight decay applies to kernels only; in the Torch code it applies
    to all parameters.
    """
    blocks = blocks_per_stage(depth, 6, 4, "wide_resnet(28)")
    images = keras.Input(input_shape, name="images")
    x = convolution(images, 16, 3, "stem", weight_decay)
    for stage, stride, block in positions([blocks] * 3):
        filters = 8 * 2**stage * count("width", width)
        x = residual_unit(x, [(filters, 3, stride), (filters, 3, 1)], weight_decay, block, dropout)
    x = logits(batch_norm_relu(x, "last"), num_classes, weight_decay)
    return keras.Model(images, x, name=name or f"wide_resnet{depth}_{width}")
