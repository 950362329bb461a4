"""ResNet-50 for small images, He et al. 2016."""

import keras

from keras_lstsd.backbones.layers import (
    batch_norm,
    batch_norm_relu,
    convolution,
    logits,
    positions,
)


def resnet50(
    num_classes: int = 100,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    weight_decay: float = 5e-4,
    name: str | None = None,
) -> keras.Model:
    """ResNet-50 whose first convolution is 3x3 with stride 1, without pooling.

    Four stages have 3, 4, 6 and 3 blocks, with f = 64, 128, 256 and 512. A block has a 1x1, a 3x3
    (with the stride) and a 1x1 convolution, of f, f and 4f filters:

        y = relu(shortcut(x) + bn(conv1x1(relu(bn(conv3x3(relu(bn(conv1x1(x)))))))))

    The last three stages start with stride 2. The shortcut of the first block of each stage is a
    1x1 convolution with batch normalization. Global average pooling and one dense layer follow.

    Trainable parameters with 100 classes: 23,705,252.

    Args:
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        name: the name of the model; None: "resnet50".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for a number of classes that is not a positive integer.

    Example:
        >>> teacher = keras_lstsd.backbones.resnet50()

    Source: the network of Tian et al. 2020, "Contrastive Representation Distillation", and its
    code, after He et al. 2016, table 1.

    Differences from the paper: the stride is in the 3x3 convolution, as in that code. Weight decay
    applies to kernels only.
    """
    images = keras.Input(input_shape, name="images")
    x = batch_norm_relu(convolution(images, 64, 3, "stem", weight_decay), "stem")
    for stage, stride, block in positions((3, 4, 6, 3)):
        x = _block(x, 32 * 2**stage, stride, weight_decay, block)
    return keras.Model(images, logits(x, num_classes, weight_decay), name=name or "resnet50")


def _block(x, filters, stride, weight_decay, name):
    y = x
    for number, (size, step) in enumerate(((1, 1), (3, stride)), 1):
        layer = f"{name}_conv{number}"
        y = batch_norm_relu(convolution(y, filters, size, layer, weight_decay, step), layer)
    y = convolution(y, 4 * filters, 1, f"{name}_conv3", weight_decay)
    y = batch_norm(y, f"{name}_conv3_bn")
    if x.shape[-1] != 4 * filters:
        x = convolution(x, 4 * filters, 1, f"{name}_shortcut", weight_decay, stride)
        x = batch_norm(x, f"{name}_shortcut_bn")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))
