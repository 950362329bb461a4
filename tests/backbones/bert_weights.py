"""Random BERT weights with Google's names, writers of both file layouts, and BERT in NumPy."""

import json

import numpy as np

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "cat",
    "##s",
    "dog",
    "sat",
    ".",
    "cafe",
]
LAYERS, WIDTH, HEADS, INNER, POSITIONS = 2, 12, 3, 20, 9
CONFIG = {
    "vocab_size": len(PIECES),
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
}


def random_weights(seed=0):
    """Weights by their names in Google's checkpoints; matrices are `[in, out]`."""
    draw = np.random.default_rng(seed)
    shapes = {
        "embeddings/word_embeddings": (len(PIECES), WIDTH),
        "embeddings/token_type_embeddings": (2, WIDTH),
        "embeddings/position_embeddings": (POSITIONS, WIDTH),
        "embeddings/LayerNorm": (WIDTH,),
        "pooler/dense": (WIDTH, WIDTH),
    }
    for number in range(LAYERS):
        layer = f"encoder/layer_{number}"
        for name in ("self/query", "self/key", "self/value", "output/dense"):
            shapes[f"{layer}/attention/{name}"] = (WIDTH, WIDTH)
        shapes[f"{layer}/intermediate/dense"] = (WIDTH, INNER)
        shapes[f"{layer}/output/dense"] = (INNER, WIDTH)
        for name in ("attention/output/LayerNorm", "output/LayerNorm"):
            shapes[f"{layer}/{name}"] = (WIDTH,)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("embeddings"):
            weights[name] = draw.normal(size=shape)
        elif name.endswith("LayerNorm"):
            weights[f"{name}/gamma"] = draw.uniform(0.5, 1.5, shape)
            weights[f"{name}/beta"] = draw.normal(size=shape)
        else:
            weights[f"{name}/kernel"] = draw.normal(size=shape) / shape[0] ** 0.5
            weights[f"{name}/bias"] = draw.normal(size=shape[1:])
    return {name: weight.astype("float32") for name, weight in weights.items()}


def write_google(folder, weights, config=CONFIG):
    """Writes a folder in Google's layout."""
    import tensorflow as tf

    folder.mkdir()
    (folder / "bert_config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    tf.raw_ops.SaveV2(
        prefix=str(folder / "bert_model.ckpt"),
        # Published checkpoints also have variables of the pre-training head.
        tensor_names=[*(f"bert/{name}" for name in weights), "cls/predictions/output_bias"],
        shape_and_slices=[""] * (len(weights) + 1),
        tensors=[*weights.values(), np.zeros(len(PIECES), "float32")],
    )
    return folder


def write_hugging_face(folder, weights, config=CONFIG, norm=("gamma", "beta"), prefix="bert."):
    """Writes a folder in Hugging Face's layout; names vary with `norm` and `prefix`."""
    from safetensors.numpy import save_file

    tensors = {}
    for name, weight in weights.items():
        name = name.replace("/", ".").replace("layer_", "layer.")
        if name.endswith("embeddings"):
            name += ".weight"
        if name.endswith("kernel"):
            name, weight = name.replace("kernel", "weight"), np.ascontiguousarray(weight.T)
        name = name.replace("gamma", norm[0]).replace("beta", norm[1])
        tensors[prefix + name] = weight
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | config))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder


def forward(weights, token_ids, segment_ids, padding_mask):
    """Sequence and pooled outputs in float64, after Devlin et al. 2019 and Google's code."""

    def dense(x, name):
        return x @ weights[f"{name}/kernel"].astype("float64") + weights[f"{name}/bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        scaled = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return weights[f"{name}/gamma"] * scaled + weights[f"{name}/beta"]

    def heads(x):
        batch, length, _ = x.shape
        return x.reshape(batch, length, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = weights["embeddings/word_embeddings"][token_ids].astype("float64")
    x = x + weights["embeddings/token_type_embeddings"][segment_ids]
    x = x + weights["embeddings/position_embeddings"][: token_ids.shape[1]]
    x = norm(x, "embeddings/LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder/layer_{number}"
        query, key, value = (
            heads(dense(x, f"{layer}/attention/self/{name}")) for name in ("query", "key", "value")
        )
        attention = query @ key.transpose(0, 1, 3, 2) / np.sqrt(WIDTH // HEADS)
        attention = np.where(padding_mask[:, None, None, :] > 0, attention, -np.inf)
        attention = np.exp(attention - attention.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        mixed = (attention @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        mixed = dense(mixed, f"{layer}/attention/output/dense")
        x = norm(x + mixed, f"{layer}/attention/output/LayerNorm")
        inner = gelu(dense(x, f"{layer}/intermediate/dense"))
        x = norm(x + dense(inner, f"{layer}/output/dense"), f"{layer}/output/LayerNorm")
    return x, np.tanh(dense(x[:, 0], "pooler/dense"))
