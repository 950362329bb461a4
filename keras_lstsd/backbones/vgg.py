"""VGG networks for small images, Simonyan and Zisserman 2014."""

import keras

from keras_lstsd.backbones.layers import batch_norm_relu, convolution, logits

CONVOLUTIONS = {8: 1, 13: 2}


def vgg(
    depth: int,
    num_classes: int = 100,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    weight_decay: float = 5e-4,
    name: str | None = None,
) -> keras.Model:
    """VGG-8 or VGG-13 with batch normalization and one dense layer.

    Five stages of 64, 128, 256, 512 and 512 filters have one (VGG-8) or two (VGG-13) 3x3
    convolutions, each with batch normalization and ReLU. A 2x2 maximum follows the first three.
    Global average pooling and one dense layer come last.

    Trainable parameters with 100 classes: VGG-8 3,963,556, VGG-13 9,459,236.

    Args:
        depth: 8 or 13.
        num_classes: C, the number of classes.
        input_shape: height, width and channels of a normalized image; height and width may be None.
        weight_decay: the L2 factor; each kernel's gradient gets the term `weight_decay * kernel`.
        name: the name of the model; None: "vgg<depth>".

    Returns:
        A functional model: images `[batch, h, w, channels]` -> float32 logits `[batch, C]`.

    Raises:
        ValueError: for another depth, and for a number of classes that is not a positive integer.

    Example:
        >>> student = keras_lstsd.backbones.vgg(8)

    Source: the networks of Tian et al. 2020, "Contrastive Representation Distillation", and its
    code, after Simonyan and Zisserman 2014.

    Differences from the code: its convolutions have a bias, which the normalization cancels: 1,472
    parameters more at VGG-8, 2,944 at VGG-13. Weight decay applies to kernels only.
    """
    if depth not in CONVOLUTIONS:
        raise ValueError(
            "`depth` must be one of the defined numbers of layers. "
            f"Received: depth={depth!r}. Expected: one of {sorted(CONVOLUTIONS)}, as in `vgg(8)`."
        )
    images = x = keras.Input(input_shape, name="images")
    for stage, filters in enumerate((64, 128, 256, 512, 512), 1):
        for number in range(1, CONVOLUTIONS[depth] + 1):
            layer = f"stage{stage}_conv{number}"
            x = batch_norm_relu(convolution(x, filters, 3, layer, weight_decay), layer)
        if stage < 4:
            pool = keras.layers.MaxPooling2D(2, data_format="channels_last", name=f"pool{stage}")
            x = pool(x)
    return keras.Model(images, logits(x, num_classes, weight_decay), name=name or f"vgg{depth}")
