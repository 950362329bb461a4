import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_lstsd import taps

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def body():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="relu", name="hidden"),
            layers.BatchNormalization(name="norm"),
        ],
        name="body",
    )


def nested():
    inner = body()
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    joined = layers.Add(name="sum")([inner(inputs["a"]), layers.Dense(5)(inputs["b"])])
    return keras.Model(inputs, layers.Dense(3, name="head")(joined)), inner


def test_features_of_nested_layers_equal_those_of_separate_models():
    network, inner = nested()
    x = {"a": X, "b": -X}
    outputs, features = taps.tapped(network, ["body/hidden", "sum", "body"])(x)
    hidden = keras.Model(inner.inputs[0], inner.get_layer("hidden").output)(X)
    total = keras.Model(network.input, network.get_layer("sum").output)(x)
    assert list(features) == ["body/hidden", "body", "sum"]
    for found, expected in (
        (outputs, network(x)),
        (features["body/hidden"], hidden),
        (features["body"], inner(X)),
        (features["sum"], total),
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))


def test_a_tapped_model_shares_weights_and_trains_the_statistics_once():
    network = body()
    model = taps.tapped(network, ["norm"])
    assert [id(weight) for weight in model.weights] == [id(weight) for weight in network.weights]
    mean = ops.convert_to_numpy(network(X, training=False)).mean(axis=0)
    hidden = ops.convert_to_numpy(network.get_layer("hidden")(X)).mean(axis=0)
    model(X, training=True)
    moving = ops.convert_to_numpy(network.get_layer("norm").moving_mean)
    np.testing.assert_allclose(moving, 0.01 * hidden, rtol=1e-5)
    assert mean.shape == moving.shape


def test_a_backbone_of_keras_hub_can_be_tapped():
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.BertBackbone(30, 2, 2, 8, 16, max_sequence_length=6, dropout=0.0)
    tokens = np.arange(12).reshape(2, 6)
    x = {
        "token_ids": tokens,
        "segment_ids": np.zeros_like(tokens),
        "padding_mask": np.ones_like(tokens),
    }
    outputs, features = taps.tapped(backbone, ["transformer_layer_0", "transformer_layer_1"])(x)
    last = ops.convert_to_numpy(features["transformer_layer_1"])
    np.testing.assert_array_equal(last, ops.convert_to_numpy(outputs["sequence_output"]))
    assert np.abs(last - ops.convert_to_numpy(features["transformer_layer_0"])).max() > 1e-4


def test_an_unknown_layer_is_rejected_with_the_names_of_the_others():
    network, _ = nested()
    with pytest.raises(ValueError, match=r"'body' has no.*Received: \['x'\].*\['hidden'"):
        taps.tapped(network, ["body/x"])
    with pytest.raises(ValueError, match=r"no such layers. Received: \['y/z'\]"):
        taps.tapped(network, ["y/z"])
