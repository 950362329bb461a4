"""A small classification problem, and what tests of `fit` make of it."""

import keras
import numpy as np
from keras import layers

from keras_lstsd import LSTSD

SAMPLES, CLASSES = 30, 3
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = draw.integers(0, CLASSES, SAMPLES)


def student(last="softmax"):
    # Not ReLU, which turns NaN into 0 on some devices.
    hidden = layers.Dense(8, activation="tanh", kernel_regularizer="l2")
    return keras.Sequential([keras.Input((4,)), hidden, layers.Dense(CLASSES, activation=last)])


def compiled(model, **options):
    options = {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"} | options
    model.compile(**options)
    return model


def lstsd(**arguments):
    return LSTSD(student(), SAMPLES, **({"mini_generation_epochs": 1} | arguments))


def tensor_slices(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays or (X, Y))
