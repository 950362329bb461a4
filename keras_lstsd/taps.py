"""Features of named layers, from the forward pass that also gives a network's outputs."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_lstsd import compat

SCORES = "attention_scores"


class Tapped(NamedTuple):
    """The outputs of a forward pass, and with them the outputs of some layers by name."""

    outputs: Any
    features: dict[str, Any]


def split(y_pred: Any) -> tuple[Any, dict[str, Any]]:
    """Outputs and features; of a forward pass without taps, no features."""
    return y_pred if isinstance(y_pred, Tapped) else (y_pred, {})


class AttentionScores(keras.layers.Layer):
    """Scores of a self-attention before mask and softmax; its weights belong to the network."""

    def __init__(self, layer: keras.Layer, name: str):
        super().__init__(dtype="float32", autocast=False, name=name)
        kind = keras.layers.MultiHeadAttention
        attention = next((it for it in compat.layers_of(layer) if isinstance(it, kind)), None)
        if attention is None:
            raise ValueError(
                f"The layer {layer.name!r} has no attention scores. "
                f"Received: {type(layer).__name__}. Expected: a layer around a "
                "`keras.layers.MultiHeadAttention`."
            )
        # A function, as Keras would track the attention twice.
        self.attention = lambda: attention

    def call(self, inputs: Any) -> Any:
        attention = self.attention()
        query, key = (
            ops.cast(dense(inputs), "float32")
            for dense in (attention.query_dense, attention.key_dense)
        )
        return ops.einsum("bqhd,bkhd->bhqk", query, key) / attention.key_dim**0.5


def tapped(network: keras.Model, names: Iterable[str]) -> keras.Model:
    """A model of the same layers that also returns the outputs of some of them.

    Args:
        network: a functional or sequential Keras model, such as a KerasHub backbone.
        names: names of layers; `"backbone/pooler"` is the layer `pooler` of the layer `backbone`.
            For a transformer layer with self-attention of its inputs, as in BERT,
            `"<layer>/attention_scores"` are the scores before mask and softmax, float32
            `[batch, heads, query, key]`.

    Returns:
        a model whose outputs are `Tapped`.

    Raises:
        ValueError: for a network whose class has a `call` of its own, and for unknown layers.

    Example:
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="hidden")])
        >>> outputs, features = keras_lstsd.taps.tapped(network, ["hidden"])(np.ones((2, 4)))
        >>> features["hidden"]
    """
    names = list(dict.fromkeys(names))
    _check(network, names)
    features = {}

    def call(layer, *args, **kwargs):
        scores = f"{layer.name}/{SCORES}"
        if scores in names:
            features[scores] = AttentionScores(layer, f"{layer.name}_{SCORES}")(args[0])
        inner = [name for name in names if name.startswith(f"{layer.name}/") and name != scores]
        if inner:
            cut = [name.removeprefix(f"{layer.name}/") for name in inner]
            outputs, found = tapped(layer, cut)(*args, **kwargs)
            features.update({name: found[path] for name, path in zip(inner, cut, strict=True)})
        else:
            outputs = layer(*args, **kwargs)
        if layer.name in names:
            features[layer.name] = outputs
        return outputs

    inputs, outputs = _traced(network, call)
    return keras.Model(inputs, Tapped(outputs, features), name=network.name)


def _traced(network: keras.Model, call: Callable) -> tuple[Any, Any]:
    """New symbolic inputs, and the outputs of a network that runs `call(layer, *args)`."""
    is_sequential = isinstance(network, keras.Sequential)
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name),
        network.inputs[0] if is_sequential else network.input,
    )
    if not is_sequential:
        return inputs, compat.run_graph(network, inputs, call)
    outputs = inputs
    for layer in network.layers:
        outputs = call(layer, outputs)
    return inputs, outputs


def _check(network: keras.Model, names: list[str]) -> None:
    if isinstance(network, keras.Sequential) and not network.built:
        raise ValueError(
            f"Features can be read from built networks only. Received: {network.name!r}, which "
            "does not know its inputs. Expected: `keras.Sequential([keras.Input((4,)), ...])`."
        )
    wanted = f", for the layers {names}" if names else ""
    if not compat.is_functional(network):
        raise ValueError(
            "Features can be read from functional and sequential models only. "
            f"Received: {type(network).__name__} with a `call` of its own{wanted}. "
            "Expected: a network made by `keras.Sequential(...)` or `keras.Model(inputs, outputs)`."
        )
    layers = [layer.name for layer in network.layers]
    missing = [name for name in names if name.split("/")[0] not in layers]
    if missing:
        raise ValueError(
            f"The network {network.name!r} has no such layers. "
            f"Received: {missing}. Expected: names among {layers}; 'a/b' is layer b inside layer a."
        )


def before_head(network: keras.Model) -> str:
    """The layer whose output the last layer with weights takes: the penultimate features.

    Raises:
        ValueError: for a network that is not functional, and where no such layer is found.
    """
    _check(network, [])
    # The outputs themselves are kept too, as the id of a lost object is given again.
    made, head, before = {}, None, None

    def call(layer, *args, **kwargs):
        nonlocal head, before
        if getattr(layer, "weights", None):
            head, (_, before) = layer, made.get(id(args[0]), (None, None))
        outputs = layer(*args, **kwargs)
        made[id(outputs)] = outputs, layer.name
        return outputs

    _traced(network, call)
    if isinstance(head, keras.Model):
        return f"{head.name}/{before_head(head)}"
    if before is None:
        raise ValueError(
            f"The layer before the last one of {network.name!r} is not known. "
            f"Received: a last layer {getattr(head, 'name', None)!r}. Expected: the names of the "
            "layers to compare, as in `Contrast(student_layer='...', teacher_layer='...')` and "
            "`keras.distillation.FeatureDistillation('mse', '...', '...')`."
        )
    return before
