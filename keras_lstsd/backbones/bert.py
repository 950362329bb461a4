"""BERT for classification, as keras-nlp builds it, with weights from wherever they lie."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Layers and width; heads are 64 wide, the inner layer four times as wide as the outer.
BERT_SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512)}
BERT_SIZES["base"] = (12, 768)

# What a folder's configuration may say beside sizes: keras-nlp's BERT knows nothing else.
_KNOWN = {
    "hidden_act": ("gelu", "gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_eps": (1e-12,),
    "position_embedding_type": ("absolute",),
    "type_vocab_size": (2,),
}


def bert(
    num_classes: int,
    weights: str | Path | None = None,
    vocabulary: str | Path | Sequence[str] | None = None,
    size: str = "tiny",
    sequence_length: int = 128,
) -> keras.Model:
    """A `keras_hub.models.BertTextClassifier`: token ids -> logits `[batch, num_classes]`.

    The student takes a dict of int32 `[batch, length]`: `"token_ids"`, `"segment_ids"` (1 in the
    second sentence) and `"padding_mask"` (0 for padding), of any length that its positions reach.
    Its `preprocessor` makes that dict of texts: see `keras_lstsd.data.tokens`. The head is random
    always; dropout is 0.1. Nothing is downloaded unless `weights` is the name of a preset.

    Args:
        num_classes: C.
        weights: a folder in Hugging Face's layout (config.json, model.safetensors, vocab.txt), a
            folder as Google publishes them (bert_config.json, bert_model.ckpt, vocab.txt; of
            whatever size), or a preset of KerasHub. None takes random weights.
        vocabulary: word pieces in the order of their ids, or a file with one a line. None takes
            the one that comes with the weights. Where it holds no capital letter, texts are
            lower-cased and stripped of accents.
        size: of a random network: `"tiny"` (2 layers, 128 wide), `"mini"`, `"small"`,
            `"medium"` or `"base"`.
        sequence_length: tokens a row, to which the preprocessor pads or cuts.

    Raises:
        ImportError: without keras-nlp.
        ValueError: for an unknown size, a folder that holds no BERT of this kind, or a
            vocabulary or a sequence_length that the network is too small for.

    Example:
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s"]
        >>> student = keras_lstsd.backbones.bert(2, vocabulary=pieces, sequence_length=16)

    Source: Devlin et al. 2019; the small sizes are those of Turc et al. 2019.

    Differences from Hugging Face's implementation: GELU is the approximation by tanh, as in
    Google's code and keras-nlp.
    """
    try:
        from keras_hub import models
    except ImportError as error:
        raise ImportError(
            "BERT comes from keras-nlp, which is not installed. "
            "Write: pip install 'keras-lstsd[text]'"
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
                f"The network is too small for this {name}. Received: {received}. Expected: at "
                f"most {most}."
            )
    preprocessor = models.BertTextClassifierPreprocessor(tokenizer, sequence_length)
    return models.BertTextClassifier(backbone, num_classes, preprocessor)


def _tokenizer(models: Any, vocabulary: str | Path | Sequence[str] | None) -> Any:
    if vocabulary is None:
        raise ValueError(
            "Texts are cut into the pieces of a vocabulary. Received: vocabulary=None beside "
            "random weights. Expected: a list of word pieces, or a file with one a line, such as "
            "`vocabulary='vocab.txt'`."
        )
    if isinstance(vocabulary, str | Path):
        vocabulary = Path(vocabulary).read_text(encoding="utf-8").splitlines()
    words = [piece for piece in vocabulary if not (piece.startswith("[") and piece.endswith("]"))]
    uncased = all(piece == piece.lower() for piece in words)
    return models.BertTokenizer(vocabulary, lowercase=uncased, strip_accents=uncased)


def _random(models: Any, size: str, vocabulary_size: int) -> keras.Model:
    if size not in BERT_SIZES:
        raise ValueError(
            f"No such size of BERT. Received: {size!r}. Expected: one of {[*BERT_SIZES]}."
        )
    layers, width = BERT_SIZES[size]
    return models.BertBackbone(vocabulary_size, layers, width // 64, width, 4 * width)


def _config(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(
            f"There is no BERT in this folder. Received: {path.parent}. Expected: config.json, "
            "model.safetensors and vocab.txt, or bert_config.json, bert_model.ckpt.index and "
            "vocab.txt in it."
        )
    config = json.loads(path.read_text())
    for key, known in _KNOWN.items():
        if config.get(key, known[0]) not in known:
            raise ValueError(
                f"{path} is of another kind of BERT. Received: {key}={config[key]!r}. Expected: "
                f"one of {known}."
            )
    return config


def _from_google(models: Any, folder: Path) -> keras.Model:
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
        # Google keeps heads side by side in one matrix, Keras on an axis of their own.
        if int(np.prod(shapes.get(name, ()))) != int(np.prod(variable.shape)):
            raise ValueError(
                f"The checkpoint in {folder} does not fit its bert_config.json. Received: "
                f"{name} of shape {shapes.get(name)}. Expected: {tuple(variable.shape)}."
            )
        variable.assign(np.reshape(checkpoint.get_tensor(name), variable.shape))
    return backbone


def _google_names(backbone: Any) -> Iterator[tuple[keras.Variable, str]]:
    """All variables of the network with their names in Google's checkpoints."""
    yield backbone.token_embedding.embeddings, "bert/embeddings/word_embeddings"
    yield backbone.segment_embedding.embeddings, "bert/embeddings/token_type_embeddings"
    yield backbone.position_embedding.position_embeddings, "bert/embeddings/position_embeddings"
    layers = {
        "embeddings/LayerNorm": backbone.embeddings_layer_norm,
        "pooler/dense": backbone.pooled_dense,
    }
    for number, block in enumerate(backbone.transformer_layers):
        attention = block._self_attention_layer
        parts = {
            "attention/self/query": attention.query_dense,
            "attention/self/key": attention.key_dense,
            "attention/self/value": attention.value_dense,
            "attention/output/dense": attention.output_dense,
            "attention/output/LayerNorm": block._self_attention_layer_norm,
            "intermediate/dense": block._feedforward_intermediate_dense,
            "output/dense": block._feedforward_output_dense,
            "output/LayerNorm": block._feedforward_layer_norm,
        }
        layers |= {f"encoder/layer_{number}/{name}": layer for name, layer in parts.items()}
    for name, layer in layers.items():
        for variable in layer.weights:
            yield variable, f"bert/{name}/{variable.name}"
