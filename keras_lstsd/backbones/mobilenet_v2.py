"""MobileNetV2 for small images, Sandler et al. 2018."""

import keras

from keras_lstsd.backbones.layers import batch_norm, batch_norm_relu, convolution, depthwise, logits

# Expansion, filters at width 1, blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280


def mobilenet_v2(
    width: float = 0.5,
    num_classes: int = 100,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    weight_decay: float = 5e-4,
    name: str | None = None,
) -> keras.Model:
    """MobileNetV2 with the strides for small images.

    A 3x3 convolution with stride 2 is followed by inverted residual blocks:

        y = bn(conv1x1(relu(bn(depthwise3x3(relu(bn(conv1x1(x))))))))

    The first convolution multiplies the channels by 6 (in the first block by 1). Where the shapes
    agree, the output is x + y. A 1x1 convolution with 1280 filters, global average pooling and one
    dense layer follow.

    Trainable parameters with 100 classes: width 0.5 812,836.

    Args:
        width: factor of the filters of all blocks.
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        name: the name of the model; None: "mobilenet_v2".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for a width that leaves a stage without filters, and for a number of classes
            that is not a positive integer.

    Example:
        >>> student = keras_lstsd.backbones.mobilenet_v2()

    Source: the network of Tian et al. 2020, "Contrastive Representation Distillation", and its
    code, after Sandler et al. 2018, table 2.

    Differences from the paper: ReLU in place of ReLU6, an expansion of 1 is a convolution too, and
    the second stage has stride 1, all as in that code. Weight decay applies to kernels only.
    """
    if not width * min(filters for _, filters, _, _ in STAGES) >= 1:
        raise ValueError(
            "`width` must leave each stage at least one filter. "
            f"Received: width={width}. Expected: at least 1 / 16, as in `mobilenet_v2(0.5)`."
        )
    images = keras.Input(input_shape, name="images")
    x = convolution(images, int(32 * width), 3, "stem", weight_decay, stride=2)
    x = batch_norm_relu(x, "stem")
    for stage, (expansion, filters, blocks, first_stride) in enumerate(STAGES, 1):
        for block in range(1, blocks + 1):
            stride = first_stride if block == 1 else 1
            block_name = f"stage{stage}_block{block}"
            x = _block(x, int(filters * width), stride, expansion, weight_decay, block_name)
    x = batch_norm_relu(convolution(x, LAST, 1, "last", weight_decay), "last")
    return keras.Model(images, logits(x, num_classes, weight_decay), name=name or "mobilenet_v2")


def _block(x, filters, stride, expansion, weight_decay, name):
    channels = x.shape[-1] * expansion
    y = convolution(x, channels, 1, f"{name}_expand", weight_decay)
    y = batch_norm_relu(y, f"{name}_expand")
    # Torch's fan of a depthwise kernel is that of all its channels.
    normal = keras.initializers.RandomNormal(stddev=(2 / (9 * channels)) ** 0.5)
    y = depthwise(y, 3, f"{name}_depthwise", weight_decay, stride, normal)
    y = batch_norm_relu(y, f"{name}_depthwise")
    y = batch_norm(
        convolution(y, filters, 1, f"{name}_project", weight_decay), f"{name}_project_bn"
    )
    if stride == 1 and x.shape[-1] == filters:
        y = keras.layers.Add(name=f"{name}_add")([x, y])
    return y
