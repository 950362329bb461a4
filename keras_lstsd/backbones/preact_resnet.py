"""Pre-activation ResNets for small images, He et al. 2016b."""

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
    """A PreActResNet-18, 34, 50 or 101 for small images.

    The network has a 3x3 convolution with 64 filters, then four stages of `residual_unit`s with
    64, 128, 256 and 512 filters. The first unit of the last three stages has stride 2. A last
    batch normalization with ReLU, global average pooling and one dense layer follow. With 18 and
    34 layers, a unit has two 3x3 convolutions:

        y = x + conv3x3(relu(bn(conv3x3(relu(bn(x))))))

    With 50 and 101 layers, it has a 1x1, a 3x3 (with the stride) and a 1x1 convolution. The last
    one has four times the filters.

    Trainable parameters (10 classes, 100 classes): 18 layers 11,172,170, 11,218,340; 34 layers
    21,280,330, 21,326,500; 50 layers 23,513,162, 23,697,572; 101 layers 42,505,290, 42,689,700.

    Args:
        depth: number of layers with kernels, without projections: 18, 34, 50 or 101.
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        name: the name of the model; None: "preact_resnet<depth>".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for another depth, and for a number of classes that is not a positive integer.

    Example:
        >>> student = keras_lstsd.backbones.preact_resnet(18)

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks". The stages are those of
    the CIFAR version in github.com/kuangliu/pytorch-cifar.

    Differences from the paper: the paper's CIFAR networks have three stages of 64, 128 and 256
    filters, and the stride in the first 1x1 convolution. In its text, only the first unit of the
    network applies its first activation to both paths. Here, as in its code and in the CIFAR
    version, all units with a projection do. The CIFAR version has no last batch normalization
    with ReLU (1,024 parameters fewer at 18 layers). Weight decay applies to kernels only; in the
    Torch code it applies to all parameters.
    """
    if depth not in BLOCKS:
        raise ValueError(
            "`depth` must be one of the defined numbers of layers. "
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
    """A residual unit with pre-activation: batch normalization and ReLU before each convolution.

    With `a = relu(bn(x))` and the residual path
    `F(x) = conv_n(relu(bn(... conv_1(a))))`, the output is `x + F(x)`. Where the number of channels
    changes, it is `conv1x1(a) + F(x)`.

    Args:
        x: `[batch, h, w, channels]`.
        convolutions: `(filters, size, stride)` of each convolution.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        name: the prefix of the layers' names.
        dropout: dropout rate before the last convolution.

    Returns:
        `[batch, ceil(h / s), ceil(w / s), filters]` with the filters of the last convolution and
        s, the largest stride; at most one convolution may have a stride above 1.

    Example:
        >>> from keras_lstsd.backbones.preact_resnet import residual_unit
        >>> images = keras.Input((32, 32, 3))
        >>> residual_unit(images, [(16, 3, 2), (16, 3, 1)], 1e-4, "unit1")
        # [batch, 16, 16, 16]

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 1 (b).
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
