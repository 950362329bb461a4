"""The loss of TinyBERT (Jiao et al. 2019), Eq. 7 to 11, from a BERT in NumPy (float64)."""

import numpy as np

from tests.oracles.common import log_softmax, softmax


def norm(x, gamma, beta):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return gamma * (x - mean) / np.sqrt(variance + 1e-12) + beta


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def bert(weights, token_ids, segment_ids, padding_mask):
    """Outputs E, H_1 ... H_M, the scores A_1 ... A_M before mask and softmax, and the logits.

    `weights` has "tokens", "positions", "segments", "norm", "pooled", "head" and "layers", a list
    of dicts of "query", "key", "value", "output", "norm1", "inner", "outer" and "norm2"; each but
    the first three is a pair: kernel and bias, or scale and offset.
    """
    length = token_ids.shape[1]
    x = weights["tokens"][token_ids] + weights["segments"][segment_ids]
    x = norm(x + weights["positions"][:length], *weights["norm"])
    hidden, scores = [x], []
    for layer in weights["layers"]:
        # Kernels of heads are [width, heads, entries].
        query, key, value = (
            np.einsum("bld,dhe->bhle", x, layer[name][0]) + layer[name][1][:, None]
            for name in ("query", "key", "value")
        )
        score = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
        scores.append(score)
        masked = np.where(padding_mask[:, None, None, :] > 0, score, -1e9)
        mixed = np.einsum("bhqe,hed->bqd", softmax(masked) @ value, layer["output"][0])
        x = norm(x + mixed + layer["output"][1], *layer["norm1"])
        inner = gelu(x @ layer["inner"][0] + layer["inner"][1])
        x = norm(x + inner @ layer["outer"][0] + layer["outer"][1], *layer["norm2"])
        hidden.append(x)
    pooled = np.tanh(x[:, 0] @ weights["pooled"][0] + weights["pooled"][1])
    return hidden, scores, pooled @ weights["head"][0] + weights["head"][1]


def losses_of_layers(student, teacher, layer_map, inputs, projections):
    """Per sample: the sums over m of the terms of scores and of hidden states, and that of E.

    Means are over real tokens (pairs of real tokens), heads and entries. `projections` is
    `[V, W]`, or empty for equal widths.
    """
    ours, theirs = bert(student, **inputs), bert(teacher, **inputs)
    v, w = projections or (np.eye(ours[0][0].shape[-1]),) * 2
    of_scores, of_hidden, of_embeddings = [], [], []
    for i, mask in enumerate(inputs["padding_mask"]):
        real = np.flatnonzero(mask)
        pairs = np.ix_(real, real)
        e_s, e_t = ours[0][0][i][real] @ v, theirs[0][0][i][real]
        of_embeddings.append(((e_s - e_t) ** 2).mean())
        scores = hidden = 0.0
        for m, g in enumerate(layer_map, 1):
            a_s, a_t = (
                np.stack([head[pairs] for head in heads])
                for heads in (ours[1][m - 1][i], theirs[1][g - 1][i])
            )
            scores += ((a_s - a_t) ** 2).mean()
            hidden += ((ours[0][m][i][real] @ w - theirs[0][g][i][real]) ** 2).mean()
        of_scores.append(scores)
        of_hidden.append(hidden)
    return np.array(of_scores), np.array(of_hidden), np.array(of_embeddings)


def loss_of_predictions(student, teacher, inputs, temperature):
    """Per sample: T^2 H(softmax(z_t / T), softmax(z_s / T))."""
    ours, theirs = (bert(weights, **inputs)[2] / temperature for weights in (student, teacher))
    return -(temperature**2) * (softmax(theirs) * log_softmax(ours)).sum(-1)
