"""The residual networks with pre-activation of He et al. 2016b, for small images."""

from collections.abc import Sequence

import keras

from keras_lstsd.backbones.layers import batch_norm_relu, convolution, logits, positions

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def preact_resnet(
    depth: int,
    num_classes: int = 100,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    weight_decay: float = 1e-4,
    name: str | None = None,
) -> keras.Model:
    """A PreActResNet-18, 34, 50 or 101 for small images: `[batch, h, w, channels]` -> logits.

    A 3x3 convolution with 64 filters, then four stages of `residual_unit`s for 64, 128, 256 and
    512 filters, the last three with stride 2 in their first unit, a last batch normalization with
    ReLU, and the mean over positions before one dense layer. Units have two 3x3 convolutions at 18
    and 34 layers; above that a 1x1, a 3x3 (which has the stride) and a 1x1 with four times the
    filters.

    Trainable parameters (10 classes, 100 classes): 18 layers 11,172,170, 11,218,340; 34 layers
    21,280,330, 21,326,500; 50 layers 23,513,162, 23,697,572; 101 layers 42,505,290, 42,689,700.

    Args:
        depth: 18, 34, 50 or 101.
        num_classes: C.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: factor of the kernels in their gradient.
        name: of the model, "preact_resnet<depth>" when None.

    Returns:
        A functional model from images to float32 logits `[batch, C]`.

    Raises:
        ValueError: for another depth, or no number of classes.

    Example:
        >>> student = keras_lstsd.backbones.preact_resnet(18)

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks"; the stages are the
    CIFAR adaptation that github.com/kuangliu/pytorch-cifar made common.

    Differences from the paper: its CIFAR networks have three stages of 64, 128 and 256 filters and
    the stride in the first 1x1. Its text splits the two paths of the very first unit after the
    activation; here, as in its code and in the adaptation, that holds for units with a projection.
    The adaptation leaves out the last batch normalization with ReLU (18 layers have 1,024
    parameters less then). Weight decay acts on kernels alone, Torch's on all parameters.
    """
    if depth not in BLOCKS:
        raise ValueError(
            "`depth` counts the layers of a network with known stages. "
            f"Received: depth={depth!r}. Expected: one of {sorted(BLOCKS)}, as in "
            "`preact_resnet(18)`."
        )
    images = keras.Input(input_shape, name="images")
    x = convolution(images, 64, 3, "stem", weight_decay)
    for stage, stride, block in positions(BLOCKS[depth]):
        filters = 32 * 2**stage
        convolutions = [(filters, 3, stride), (filters, 3, 1)]
        if depth >= 50:
            convolutions = [(filters, 1, 1), (filters, 3, stride), (4 * filters, 1, 1)]
        x = residual_unit(x, convolutions, weight_decay, block)
    x = logits(batch_norm_relu(x, "last"), num_classes, weight_decay)
    return keras.Model(images, x, name=name or f"preact_resnet{depth}")


def residual_unit(
    x: keras.KerasTensor,
    convolutions: Sequence[tuple[int, int, int]],
    weight_decay: float,
    name: str,
    dropout: float = 0.0,
) -> keras.KerasTensor:
    """x, or its projection, plus convolutions of which each follows on normalization and ReLU.

    Where the number of channels changes, a 1x1 convolution of the first activation stands for x.

    Args:
        x: `[batch, h, w, channels]`.
        convolutions: (filters, size, stride) of each.
        weight_decay: factor of the kernels in their gradient.
        name: what the names of its layers begin with.
        dropout: rate before the last convolution.
    """
    filters = convolutions[-1][0]
    y = batch_norm_relu(x, f"{name}_conv1")
    if x.shape[-1] != filters:
        stride = max(stride for _, _, stride in convolutions)
        x = convolution(y, filters, 1, f"{name}_shortcut", weight_decay, stride)
    for number, (filters, size, stride) in enumerate(convolutions, 1):
        if number > 1:
            y = batch_norm_relu(y, f"{name}_conv{number}")
        if dropout and number == len(convolutions):
            y = keras.layers.Dropout(dropout, name=f"{name}_dropout")(y)
        y = convolution(y, filters, size, f"{name}_conv{number}", weight_decay, stride)
    return keras.layers.Add(name=f"{name}_add")([x, y])
