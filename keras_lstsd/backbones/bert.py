"""BERT for classification, built by KerasHub, with weights from local files or presets."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Number of layers and width. A head has 64 entries; the inner layer has four times the width.
BERT_SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512)}
BERT_SIZES["base"] = (12, 768)

# Values of a configuration that KerasHub's BERT supports; the first one is the default.
_SUPPORTED = {
    "hidden_act": ("gelu", "gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_eps": (1e-12,),
    "position_embedding_type": ("absolute",),
    "type_vocab_size": (2,),
}

# Names in Google's checkpoints, by the names of KerasHub's layers.
_EMBEDDING_NAMES = {"token": "word", "segment": "token_type", "position": "position"}
_OTHER_NAMES = {"embeddings_layer_norm": "embeddings/LayerNorm", "pooled_dense": "pooler/dense"}
_BLOCK_NAMES = {
    "self_attention_layer/query": "attention/self/query",
    "self_attention_layer/key": "attention/self/key",
    "self_attention_layer/value": "attention/self/value",
    "self_attention_layer/attention_output": "attention/output/dense",
    "self_attention_layer_norm": "attention/output/LayerNorm",
    "feedforward_intermediate_dense": "intermediate/dense",
    "feedforward_output_dense": "output/dense",
    "feedforward_layer_norm": "output/LayerNorm",
}


def bert(
    num_classes: int,
    weights: str | Path | None = None,
    vocabulary: str | Path | Sequence[str] | None = None,
    size: str = "tiny",
    sequence_length: int = 128,
) -> keras.Model:
    """A BERT classifier, a `keras_hub.models.BertTextClassifier`.

    The model takes a dict of int32 tensors `[batch, length]`: `"token_ids"`, `"segment_ids"` (1 in
    the second sentence) and `"padding_mask"` (0 for padding). The length may vary up to the
    network's number of positions. The model's `preprocessor` makes this dict from texts; see
    `keras_lstsd.data.tokens`. The classification head always starts from random weights. Dropout
    is 0.1. Nothing is downloaded unless `weights` names a preset.

    Args:
        num_classes: C, the number of classes.
        weights: None for random weights; a folder in Hugging Face's layout (config.json,
            model.safetensors, vocab.txt); a folder in Google's layout (bert_config.json,
            bert_model.ckpt, vocab.txt; any size); or the name of a KerasHub preset.
        vocabulary: word pieces in the order of their ids, or a file with one piece per line. None
            takes the vocabulary that comes with the weights. If it has no capital letter, texts
            are converted to lower case and accents are removed.
        size: the size with random weights: `"tiny"` (2 layers of width 128), `"mini"` (4, 256),
            `"small"` (4, 512), `"medium"` (8, 512) or `"base"` (12, 768).
        sequence_length: tokens per row. The preprocessor pads or truncates to this length.

    Returns:
        A `BertTextClassifier`: token ids `[batch, length]` -> logits `[batch, C]`.

    Raises:
        ImportError: without keras-nlp.
        ValueError: for an unknown size, a folder without a supported BERT, random weights without
            a vocabulary, and a vocabulary or a sequence length above the network's size.

    Example:
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s"]
        >>> student = keras_lstsd.backbones.bert(2, vocabulary=pieces, sequence_length=16)

    Source: Devlin et al. 2019; Turc et al. 2019 for the sizes below base.

    Differences from Hugging Face's implementation: GELU is the tanh approximation, as in Google's
    code and KerasHub.
    """
    try:
        from keras_hub import models
    except ImportError as error:
        raise ImportError(
            "`bert` needs keras-nlp, which is not installed. Write: pip install 'keras-lstsd[text]'"
        ) from error
    if weights is None:
        tokenizer = _tokenizer(models, vocabulary)
        backbone = _random(models, size, tokenizer.vocabulary_size())
    else:
        folder = Path(weights)
        if (folder / "bert_model.ckpt.index").is_file():
            backbone = _from_google(models, folder)
        else:
            if folder.is_dir():
                _config(folder / "config.json")
            backbone = models.BertBackbone.from_preset(str(weights))
        if vocabulary is None and folder.is_dir() and (folder / "vocab.txt").is_file():
            vocabulary = folder / "vocab.txt"
        if vocabulary is None:
            tokenizer = models.BertTokenizer.from_preset(str(weights))
        else:
            tokenizer = _tokenizer(models, vocabulary)
    for name, received, most in (
        ("vocabulary", tokenizer.vocabulary_size(), backbone.vocabulary_size),
        ("sequence_length", sequence_length, backbone.max_sequence_length),
    ):
        if received > most:
            raise ValueError(
                f"`{name}` is too large for this network. Received: {received}. Expected: at most "
                f"{most}."
            )
    preprocessor = models.BertTextClassifierPreprocessor(tokenizer, sequence_length)
    return models.BertTextClassifier(backbone, num_classes, preprocessor)


def bert_of_layers(classifier: Any, layers: Sequence[int]) -> keras.Model:
    """A shallower BERT classifier from chosen layers of another one.

    Args:
        classifier: a `keras_hub.models.BertTextClassifier`.
        layers: numbers of its transformer layers, from 1, in the order of the new network.

    Returns:
        A classifier of the same classes and preprocessor. Its weights are copies: embeddings, the
        chosen layers, the pooled layer and the head.

    Raises:
        ValueError: for a layer that the classifier does not have.

    Example:
        >>> student = keras_lstsd.backbones.bert_of_layers(teacher, [2, 4, 6, 8, 10, 12])

    Source: Jiao et al. 2019 start a student from a general distillation; Sanh et al. 2019 from
    every second layer.
    """
    old = classifier.backbone
    if not layers or not all(1 <= number <= old.num_layers for number in layers):
        raise ValueError(
            "`layers` must name transformer layers of the classifier. "
            f"Received: {list(layers)}. Expected: numbers from 1 to {old.num_layers}."
        )
    new = type(old).from_config(old.get_config() | {"num_layers": len(layers), "name": None})
    student = type(classifier).from_config(
        classifier.get_config()
        | {"backbone": new, "preprocessor": classifier.preprocessor, "name": None}
    )
    chosen = {
        f"transformer_layer_{number}": f"transformer_layer_{layer - 1}"
        for number, layer in enumerate(layers)
    }
    for layer in new.layers:
        layer.set_weights(old.get_layer(chosen.get(layer.name, layer.name)).get_weights())
    for layer in student.layers:
        if layer is not new:
            layer.set_weights(classifier.get_layer(layer.name).get_weights())
    return student


def _tokenizer(models: Any, vocabulary: str | Path | Sequence[str] | None) -> Any:
    """A WordPiece tokenizer; it ignores case and accents if the vocabulary has no capitals."""
    if vocabulary is None:
        raise ValueError(
            "Random weights need a vocabulary. Received: weights=None, vocabulary=None. Expected: "
            "a list of word pieces, or a file with one piece per line, such as "
            "`vocabulary='vocab.txt'`."
        )
    if isinstance(vocabulary, str | Path):
        vocabulary = Path(vocabulary).read_text(encoding="utf-8").splitlines()
    words = [piece for piece in vocabulary if not (piece.startswith("[") and piece.endswith("]"))]
    uncased = all(piece == piece.lower() for piece in words)
    return models.BertTokenizer(vocabulary, lowercase=uncased, strip_accents=uncased)


def _random(models: Any, size: str, vocabulary_size: int) -> keras.Model:
    """A backbone of a named size with random weights."""
    if size not in BERT_SIZES:
        raise ValueError(
            f"`size` is unknown. Received: size={size!r}. Expected: one of {[*BERT_SIZES]}."
        )
    layers, width = BERT_SIZES[size]
    return models.BertBackbone(vocabulary_size, layers, width // 64, width, 4 * width)


def _config(path: Path) -> dict:
    """The configuration in a folder of weights, checked against what KerasHub supports."""
    if not path.is_file():
        raise ValueError(
            f"The folder has no BERT weights. Received: {path.parent}. Expected: a folder with "
            "config.json, model.safetensors and vocab.txt, or with bert_config.json, "
            "bert_model.ckpt.index and vocab.txt."
        )
    config = json.loads(path.read_text())
    for key, supported in _SUPPORTED.items():
        if config.get(key, supported[0]) not in supported:
            raise ValueError(
                f"{path} describes an unsupported BERT. Received: {key}={config[key]!r}. Expected: "
                f"one of {supported}."
            )
    return config


def _from_google(models: Any, folder: Path) -> keras.Model:
    """A backbone with the weights of a TensorFlow checkpoint in Google's layout."""
    import tensorflow as tf

    config = _config(folder / "bert_config.json")
    backbone = models.BertBackbone(
        vocabulary_size=config["vocab_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["hidden_size"],
        intermediate_dim=config["intermediate_size"],
        max_sequence_length=config["max_position_embeddings"],
    )
    checkpoint = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    shapes = checkpoint.get_variable_to_shape_map()
    for variable, name in _google_names(backbone):
        # Google stores all heads in one matrix; Keras gives the heads a separate axis.
        if int(np.prod(shapes.get(name, ()))) != int(np.prod(variable.shape)):
            raise ValueError(
                f"The checkpoint in {folder} contradicts its bert_config.json. Received: "
                f"{name} of shape {shapes.get(name)}. Expected: {tuple(variable.shape)}."
            )
        variable.assign(np.reshape(checkpoint.get_tensor(name), variable.shape))
    return backbone


def _google_names(backbone: Any) -> Iterator[tuple[keras.Variable, str]]:
    """All variables of the network with their names in Google's checkpoints."""
    for variable in backbone.weights:
        # KerasHub's path, such as "transformer_layer_0/self_attention_layer/query/kernel".
        *layer, name = variable.path.split("/")
        if layer[0].startswith("transformer_layer_"):
            number = layer[0].removeprefix("transformer_layer_")
            block = _BLOCK_NAMES["/".join(layer[1:])]
            yield variable, f"bert/encoder/layer_{number}/{block}/{name}"
        elif name == "embeddings":
            kind = layer[0].removesuffix("_embedding")
            yield variable, f"bert/embeddings/{_EMBEDDING_NAMES[kind]}_embeddings"
        else:
            yield variable, f"bert/{_OTHER_NAMES[layer[0]]}/{name}"
