"""The conventions of Torch that the image networks of the papers share.

- A convolution has no bias, pads `size // 2` on each side (Keras's "same" pads a stride of 2 on one
  side alone), and starts from N(0, 2 / fan_out).
- Batch normalization keeps 0.9 of its moving statistics, with epsilon 1e-5.
- The last layer starts from U(+-1 / sqrt(fan_in)) with a bias of 0, and gives float32 logits under
  any dtype policy.
- Weight decay is an L2 term of `weight_decay / 2` on kernels, whose gradient is
  `weight_decay * kernel`. Torch's optimizer decays scales, offsets and biases besides.

Torch's moving variance is the unbiased one of a batch, Keras's the biased.
"""

from collections.abc import Iterator, Sequence

import keras

from keras_lstsd.checks import count


def blocks_per_stage(depth: int, layers: int, rest: int, example: str) -> int:
    """n of `depth = layers * n + rest`.

    Raises:
        ValueError: for another depth; the text ends in the line `example`.
    """
    blocks, remainder = divmod(count("depth", depth) - rest, layers)
    if blocks < 1 or remainder:
        raise ValueError(
            "`depth` counts the layers of a network whose three stages have n blocks each. "
            f"Received: depth={depth}. Expected: {layers}n + {rest} with n = 1, 2, ..., as in "
            f"`{example}`."
        )
    return blocks


def positions(blocks: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """(stage, stride, name) of each block, for the number of blocks of each stage.

    Stages count from 1; all but the first start with stride 2.
    """
    for stage, number in enumerate(blocks, 1):
        for block in range(1, number + 1):
            yield stage, 2 if stage > 1 and block == 1 else 1, f"stage{stage}_block{block}"


def convolution(
    x: keras.KerasTensor,
    filters: int,
    size: int,
    name: str,
    weight_decay: float,
    stride: int = 1,
    groups: int = 1,
) -> keras.KerasTensor:
    """`[batch, h, w, channels]` -> `[batch, ceil(h / stride), ceil(w / stride), filters]`."""
    padding = "same"
    if stride > 1 and size > 1:
        pad = keras.layers.ZeroPadding2D(size // 2, "channels_last", name=f"{name}_padding")
        x, padding = pad(x), "valid"
    return keras.layers.Conv2D(
        filters,
        size,
        stride,
        padding,
        data_format="channels_last",
        groups=groups,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        kernel_regularizer=keras.regularizers.L2(weight_decay / 2),
        name=name,
    )(x)


def batch_norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch normalization over the channels."""
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def batch_norm_relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch normalization and ReLU, named `<name>_bn` and `<name>_relu`."""
    return keras.layers.ReLU(name=f"{name}_relu")(batch_norm(x, f"{name}_bn"))


def logits(x: keras.KerasTensor, num_classes: int, weight_decay: float) -> keras.KerasTensor:
    """The mean over positions, and the last layer: `[batch, h, w, channels]` -> `[batch, C]`."""
    x = keras.layers.GlobalAveragePooling2D("channels_last", name="pool")(x)
    return keras.layers.Dense(
        count("num_classes", num_classes),
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        kernel_regularizer=keras.regularizers.L2(weight_decay / 2),
        dtype="float32",
        name="logits",
    )(x)
