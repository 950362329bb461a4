"""Layers of networks in NumPy, in inference mode, with a Keras network's weights."""

import numpy as np


class Forward:
    """Computes layers of `network` by name, after its normalizations get random statistics.

    With random scales, offsets, means and variances, swapped or missing layers change the result.
    """

    def __init__(self, network, seed=0):
        self.network = network
        rng = np.random.default_rng(seed)
        for layer in network.layers:
            if layer.name.endswith("_bn"):
                channels = layer.gamma.shape[0]
                scale, variance = rng.uniform(0.5, 1.5, (2, channels))
                offset, mean = rng.normal(size=(2, channels))
                layer.set_weights([scale, offset, mean, variance])

    def conv(self, x, name, stride=1, groups=1):
        """A convolution with equal padding on all sides, as a sum over the kernel's positions."""
        (kernel,) = self.network.get_layer(name).get_weights()
        size, _, channels, filters = kernel.shape
        pad = size // 2
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        height, width = padded.shape[1] - size + 1, padded.shape[2] - size + 1
        parts = []
        for group in range(groups):
            inputs = padded[..., group * channels : (group + 1) * channels]
            weights = kernel[..., group * filters // groups : (group + 1) * filters // groups]
            parts.append(
                sum(
                    inputs[:, i : i + height : stride, j : j + width : stride] @ weights[i, j]
                    for i in range(size)
                    for j in range(size)
                )
            )
        return np.concatenate(parts, -1)

    def depthwise(self, x, name, stride=1):
        """A 3x3 convolution of each channel by itself, with padding 1."""
        (kernel,) = self.network.get_layer(name).get_weights()
        return _positions(x, stride, lambda part, i, j: part * kernel[i, j, :, 0])

    def average_pool(self, x):
        """The 3x3 average with stride 2 and padding 1, where the padding counts as zeros."""
        return _positions(x, 2, lambda part, i, j: part / 9)

    def bn(self, x, name):
        gamma, beta, mean, variance = self.network.get_layer(f"{name}_bn").get_weights()
        return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta

    def bn_relu(self, x, name):
        return np.maximum(self.bn(x, name), 0)

    def logits(self, x):
        kernel, bias = self.network.get_layer("logits").get_weights()
        return x.mean((1, 2)) @ kernel + bias

    def check(self, images, expected):
        """Asserts that the network computes `expected`."""
        computed = self.network.predict(images, verbose=0)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(computed / scale, expected / scale, atol=1e-4)


def _positions(x, stride, term):
    """The sum of `term` over the 3x3 neighbours of each position, with padding 1."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        term(padded[:, i : i + height : stride, j : j + width : stride], i, j)
        for i in range(3)
        for j in range(3)
    )


def trainable(network):
    """Number of trainable parameters."""
    return sum(int(np.prod(v.shape)) for v in network.trainable_variables)


def lstm_states(vectors, kernel, recurrent, bias):
    """The states of an LSTM `[time, units]`; Keras orders the gates i, f, c, o."""
    h = c = np.zeros(len(recurrent))
    states = []
    for vector in vectors:
        i, f, candidate, o = np.split(vector @ kernel + h @ recurrent + bias, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(candidate)
        h = o * np.tanh(c)
        states.append(h)
    return np.array(states)
