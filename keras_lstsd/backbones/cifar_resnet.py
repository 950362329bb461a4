"""ResNets for CIFAR, He et al. 2016."""

from collections.abc import Sequence

import keras

from keras_lstsd.backbones.layers import (
    batch_norm,
    batch_norm_relu,
    blocks_per_stage,
    convolution,
    logits,
    positions,
)


def cifar_resnet(
    depth: int,
    num_classes: int = 100,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    weight_decay: float = 1e-4,
    filters: Sequence[int] = (16, 16, 32, 64),
    projections: bool = False,
    name: str | None = None,
) -> keras.Model:
    """A ResNet for small images, such as ResNet-20, 32, 56 or 110, or the wider ResNet-8x4.

    The network has a 3x3 convolution with batch normalization and ReLU, then stages of 16, 32 and
    64 filters with n = (depth - 2) / 6 blocks each:

        y = relu(shortcut(x) + bn(conv3x3(relu(bn(conv3x3(x))))))

    Global average pooling and one dense layer follow. The second and the third stage start with
    stride 2. The shortcut of that block has no parameters (option A): it takes every other row
    and column of x and appends channels of zeros.

    With `projections` a shortcut that changes the shape is a 1x1 convolution with batch
    normalization (option B). These are the ResNets of Tian et al.: ResNet-8x4 and 32x4 are
    `cifar_resnet(8, filters=(32, 64, 128, 256), projections=True)` and the same with depth 32.

    Trainable parameters (10 classes, 100 classes): ResNet-20 269,722, 275,572; ResNet-32 464,154,
    470,004; ResNet-56 853,018, 858,868; ResNet-110 1,727,962, 1,733,812. With projections and
    100 classes: ResNet-20 278,324; ResNet-32 472,756; ResNet-56 861,620; ResNet-110 1,736,564;
    ResNet-8x4 1,233,540; ResNet-32x4 7,433,860.

    Args:
        depth: number of layers with kernels, 6n + 2.
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        filters: of the first convolution, then of each stage.
        projections: whether shortcuts that change the shape are convolutions.
        name: the name of the model; None: "resnet<depth>".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for a depth that is not 6n + 2, and for a number of classes that is not a
            positive integer.

    Example:
        >>> student = keras_lstsd.backbones.cifar_resnet(20)

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.
    Initial weights: its Torch code, fb.resnet.torch. Networks with projections: Tian et al. 2020,
    "Contrastive Representation Distillation", and its code.

    Differences from the paper: weight decay applies to kernels only; in the Torch code it applies
    to all parameters.
    """
    blocks = blocks_per_stage(depth, 6, 2, "cifar_resnet(20)")
    images = keras.Input(input_shape, name="images")
    first, *rest = filters
    x = batch_norm_relu(convolution(images, first, 3, "stem", weight_decay), "stem")
    for stage, stride, block in positions([blocks] * len(rest)):
        x = _block(x, rest[stage - 1], stride, weight_decay, projections, block)
    return keras.Model(images, logits(x, num_classes, weight_decay), name=name or f"resnet{depth}")


def _block(x, filters, stride, weight_decay, projections, name):
    y = convolution(x, filters, 3, f"{name}_conv1", weight_decay, stride)
    y = batch_norm_relu(y, f"{name}_conv1")
    y = batch_norm(convolution(y, filters, 3, f"{name}_conv2", weight_decay), f"{name}_conv2_bn")
    if projections and (stride > 1 or x.shape[-1] != filters):
        x = convolution(x, filters, 1, f"{name}_shortcut", weight_decay, stride)
        x = batch_norm(x, f"{name}_shortcut_bn")
    elif stride > 1:
        x = _shortcut(x, filters, stride, f"{name}_shortcut")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))


def _shortcut(x, filters, stride, name):
    """The shortcut of option A, made of Keras layers: saved networks load without this library."""
    pool = keras.layers.AveragePooling2D(1, stride, "valid", "channels_last", f"{name}_subsample")
    # With "channels_first", the layer pads the last two axes: here width and channels.
    zeros = ((0, 0), (0, filters - x.shape[-1]))
    return keras.layers.ZeroPadding2D(zeros, "channels_first", name=f"{name}_zeros")(pool(x))
