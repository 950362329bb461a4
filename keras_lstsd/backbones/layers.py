"""The layers that the image networks share, with the conventions of Torch.

- A convolution has no bias and pads `size // 2` on each side. (With stride 2, Keras's "same"
  padding is one-sided.) Its kernel starts from N(0, 2 / fan_out), or from Torch's default,
  U(+-1 / sqrt(fan_in)).
- Batch normalization has the momentum 0.9 and the epsilon 1e-5.
- The last layer starts from U(+-1 / sqrt(fan_in)) with a bias of 0. Its logits are float32 under
  any dtype policy.
- Weight decay is an L2 term of `weight_decay / 2` on kernels, whose gradient is
  `weight_decay * kernel`. Torch's optimizer also decays scales, offsets and biases.

One difference remains: the moving variance in Torch is the unbiased variance of a batch, in Keras
the biased one.
"""

from collections.abc import Iterator, Sequence

import keras

from keras_lstsd.checks import count


def blocks_per_stage(depth: int, layers: int, rest: int, example: str) -> int:
    """The number of blocks per stage: n in `depth = layers * n + rest`.

    Args:
        depth: number of layers with kernels.
        layers: number of layers that one more block per stage adds.
        rest: number of layers outside the blocks.
        example: a valid call, for the error message.

    Returns:
        n, at least 1.

    Raises:
        ValueError: for a depth of another form. The message ends with `example`.

    Example:
        >>> keras_lstsd.backbones.layers.blocks_per_stage(20, 6, 2, "cifar_resnet(20)")     # 3
    """
    blocks, remainder = divmod(count("depth", depth) - rest, layers)
    if blocks < 1 or remainder:
        raise ValueError(
            "`depth` must give each of the three stages the same number n of blocks. "
            f"Received: depth={depth}. Expected: {layers}n + {rest} with n = 1, 2, ..., as in "
            f"`{example}`."
        )
    return blocks


def positions(blocks: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Stage, stride and name of each block.

    Stages count from 1. The first block of each stage but the first has stride 2; all other
    blocks have stride 1.

    Args:
        blocks: the number of blocks of each stage.

    Yields:
        `(stage, stride, "stage<stage>_block<block>")` for each block, in order.

    Example:
        >>> list(keras_lstsd.backbones.layers.positions([1, 1]))
        # [(1, 1, "stage1_block1"), (2, 2, "stage2_block1")]
    """
    for stage, number in enumerate(blocks, 1):
        for block in range(1, number + 1):
            yield stage, 2 if stage > 1 and block == 1 else 1, f"stage{stage}_block{block}"


HE = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
TORCH = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def convolution(
    x: keras.KerasTensor,
    filters: int,
    size: int,
    name: str,
    weight_decay: float,
    stride: int = 1,
    groups: int = 1,
    initializer: keras.initializers.Initializer = HE,
) -> keras.KerasTensor:
    """A convolution without bias, padded by `size // 2` on each side.

    Args:
        x: `[batch, h, w, channels]`.
        filters: number of filters.
        size: height and width of the kernel, odd.
        name: the name of the layer.
        weight_decay: the L2 factor; the kernel's gradient gets the term `weight_decay * kernel`.
        stride: step between positions, in both directions.
        groups: number of groups of channels that are convolved separately.
        initializer: where the kernel starts from.

    Returns:
        `[batch, ceil(h / stride), ceil(w / stride), filters]`.

    Example:
        >>> images = keras.Input((32, 32, 3))
        >>> keras_lstsd.backbones.layers.convolution(images, 16, 3, "stem", 1e-4, stride=2)
        # [batch, 16, 16, 16]
    """
    x, padding = _padded(x, size, stride, name)
    return keras.layers.Conv2D(
        filters,
        size,
        stride,
        padding,
        data_format="channels_last",
        groups=groups,
        use_bias=False,
        kernel_initializer=initializer.clone(),
        kernel_regularizer=keras.regularizers.L2(weight_decay / 2),
        name=name,
    )(x)


def depthwise(
    x: keras.KerasTensor,
    size: int,
    name: str,
    weight_decay: float,
    stride: int = 1,
    initializer: keras.initializers.Initializer | None = None,
) -> keras.KerasTensor:
    """A convolution of each channel by itself, without bias, padded by `size // 2` on each side.

    Args:
        x: `[batch, h, w, channels]`.
        size: height and width of the kernel, odd.
        name: the name of the layer.
        weight_decay: the L2 factor; the kernel's gradient gets the term `weight_decay * kernel`.
        stride: step between positions, in both directions.
        initializer: where the kernel starts from. None: U(+-1 / size), Torch's default.

    Returns:
        `[batch, ceil(h / stride), ceil(w / stride), channels]`.

    Example:
        >>> images = keras.Input((32, 32, 24))
        >>> keras_lstsd.backbones.layers.depthwise(images, 3, "depthwise", 1e-4, stride=2)
        # [batch, 16, 16, 24]
    """
    x, padding = _padded(x, size, stride, name)
    return keras.layers.DepthwiseConv2D(
        size,
        stride,
        padding,
        data_format="channels_last",
        use_bias=False,
        depthwise_initializer=initializer or keras.initializers.RandomUniform(-1 / size, 1 / size),
        depthwise_regularizer=keras.regularizers.L2(weight_decay / 2),
        name=name,
    )(x)


def _padded(x, size, stride, name):
    """The input and the padding of a convolution that pads `size // 2` on each side."""
    if stride == 1 or size == 1:
        return x, "same"
    pad = keras.layers.ZeroPadding2D(size // 2, "channels_last", name=f"{name}_padding")
    return pad(x), "valid"


def batch_norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch normalization of each channel, `[batch, h, w, channels]` -> the same shape."""
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def batch_norm_relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch normalization, then ReLU; the layers are named `<name>_bn` and `<name>_relu`."""
    return keras.layers.ReLU(name=f"{name}_relu")(batch_norm(x, f"{name}_bn"))


def logits(x: keras.KerasTensor, num_classes: int, weight_decay: float) -> keras.KerasTensor:
    """Global average pooling and the last layer.

    Args:
        x: `[batch, h, w, channels]`.
        num_classes: C, the number of classes.
        weight_decay: the L2 factor; the kernel's gradient gets the term `weight_decay * kernel`.

    Returns:
        float32 logits `[batch, C]`.

    Raises:
        ValueError: for a number of classes that is not a positive integer.

    Example:
        >>> features = keras.Input((8, 8, 64))
        >>> keras_lstsd.backbones.layers.logits(features, 100, 1e-4)     # [batch, 100]
    """
    x = keras.layers.GlobalAveragePooling2D("channels_last", name="pool")(x)
    return keras.layers.Dense(
        count("num_classes", num_classes),
        kernel_initializer=TORCH.clone(),
        kernel_regularizer=keras.regularizers.L2(weight_decay / 2),
        dtype="float32",
        name="logits",
    )(x)
