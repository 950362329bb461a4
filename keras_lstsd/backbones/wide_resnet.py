"""The wide residual networks of Zagoruyko and Komodakis 2016."""

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
    """A WRN-28-10 and its like: `[batch, h, w, channels]` -> logits.

    A 3x3 convolution with 16 filters, then stages of 16k, 32k and 64k filters, k = `width`, with
    n = (depth - 4) / 6 pre-activated units of two 3x3 convolutions each, a last batch normalization
    with ReLU, and the mean over positions before one dense layer. The second and third stage start
    with stride 2. A unit that changes the channels projects its shortcut by a 1x1 convolution.

    Trainable parameters (10 classes, 100 classes): WRN-28-10 36,479,194, 36,536,884.

    Args:
        depth: 6n + 4, all convolutions where each stage has a projection.
        width: k, the factor on the filters.
        dropout: rate between the two convolutions of a unit (the paper's 0.3).
        num_classes: C.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: factor of the kernels in their gradient. The paper's; DUPS trains with 1e-4.
        name: of the model, "wide_resnet<depth>_<width>" when None.

    Returns:
        A functional model from images to float32 logits `[batch, C]`.

    Raises:
        ValueError: for a depth that is not 6n + 4, no width, or no number of classes.

    Example:
        >>> student = keras_lstsd.backbones.wide_resnet(depth=16, width=4)

    Source: Zagoruyko and Komodakis 2016, "Wide Residual Networks", table 1 and its Torch code.

    Differences from the paper: weight decay acts on kernels alone, Torch's on all parameters.
    """
    blocks = blocks_per_stage(depth, 6, 4, "wide_resnet(28)")
    images = keras.Input(input_shape, name="images")
    x = convolution(images, 16, 3, "stem", weight_decay)
    for stage, stride, block in positions([blocks] * 3):
        filters = 8 * 2**stage * count("width", width)
        x = residual_unit(x, [(filters, 3, stride), (filters, 3, 1)], weight_decay, block, dropout)
    x = logits(batch_norm_relu(x, "last"), num_classes, weight_decay)
    return keras.Model(images, x, name=name or f"wide_resnet{depth}_{width}")
