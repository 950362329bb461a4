"""Token ids of texts: tokenized once, stored, and batched by their lengths."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lstsd.checks import count
from keras_lstsd.data.arrays import layer_checksum
from keras_lstsd.data.batches import SampleBatches, without_tuner
from keras_lstsd.saving import replacing

BATCH_SIZE = 1024


def encode(
    preprocessor: Any,
    first: Sequence[str],
    second: Sequence[str] | None = None,
    cache: str | Path | None = None,
    verbose: int = 0,
) -> dict[str, np.ndarray]:
    """Tokenizes texts, or pairs of texts: a dict of int32 `[texts, sequence_length]`.

    It runs in tf.data, on all cores. For BERT the keys are `"token_ids"`, `"segment_ids"` and
    `"padding_mask"`, and a pair becomes one row, `[CLS] first [SEP] second [SEP]`. Rows are padded
    or truncated; in a pair, the longer text is truncated first.

    Args:
        preprocessor: the preprocessor of a KerasHub text classifier (`student.preprocessor`).
        first: texts.
        second: None, or the second text of each pair.
        cache: a folder for the result. A later call with the same texts and the same preprocessor
            reads it; the name of its file is a checksum of both.
        verbose: 1 shows a progress bar.

    Example:
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s"]
        >>> student = keras_lstsd.backbones.bert(2, vocabulary=pieces, sequence_length=8)

        Each text becomes a row of 8 ids.

        >>> keras_lstsd.data.tokens.encode(student.preprocessor, ["Cats", "a cat"])["token_ids"]
        # [[2, 6, 7, 3, 0, 0, 0, 0], [2, 5, 6, 3, 0, 0, 0, 0]]
    """
    import tensorflow as tf

    texts = (list(first),) if second is None else (list(first), list(second))
    if cache is not None:
        path = Path(cache) / f"{_checksum(preprocessor, texts)}.npz"
        if path.is_file():
            with np.load(path) as stored:
                return dict(stored)
    batches = (
        tf.data.Dataset.from_tensor_slices(texts)
        .batch(BATCH_SIZE)
        # Without `y` the preprocessor would take the second text as the label.
        .map(lambda *texts: preprocessor(texts, y=None), num_parallel_calls=tf.data.AUTOTUNE)
        .apply(without_tuner)
    )
    progress = keras.utils.Progbar(-(-len(texts[0]) // BATCH_SIZE), verbose=verbose)
    parts = []
    for part in batches.as_numpy_iterator():
        parts.append(part)
        progress.add(1)
    x = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays).astype(np.int32), *parts)
    if cache is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file, file.open("wb") as stream:
            np.savez_compressed(stream, **x)
    return x


def _checksum(preprocessor: Any, texts: Sequence[Sequence[str]]) -> str:
    """Identifies the results of a preprocessor for some texts."""
    import keras_hub

    words = preprocessor.tokenizer.get_vocabulary()
    known = json.dumps([keras_hub.__version__, layer_checksum(preprocessor), words, texts])
    return hashlib.sha256(known.encode()).hexdigest()[:32]


class TokenBatches(SampleBatches):
    """`SampleBatches` of token ids: batches of texts of like lengths, without most of the padding.

    A padding token costs as much as a word. XLA compiles the step for each length of a batch, so
    there are few lengths. They are those that need the least padding if each text is padded to the
    next one:

        min over l_1 < ... < l_K of sum over texts of min {l_k : l_k >= length of the text}

    With `shuffle=True` an epoch shuffles the texts, sorts each pool of texts by these lengths,
    cuts the pools into batches and shuffles the batches. Texts of one length stay in random order.
    The order depends on (seed, epoch) only.

    Args:
        x: dict of arrays `[samples, sequence_length]`, as `encode` returns it, including
            `"padding_mask"`, with padding on the right.
        y: array of labels, one row per sample.
        lengths: K, how many lengths batches have. None keeps the full length.
        pool: batches that are sorted together; 1 draws each batch from all texts.
        options: further arguments of `SampleBatches`.

    Raises:
        ValueError: when x is not such a dict, for numbers below 1, and where `SampleBatches`
            raises it.

    Example:
        >>> ids = np.array([[2, 6, 7, 3, 0, 0], [2, 5, 6, 3, 0, 0]])
        >>> x = {"token_ids": ids, "padding_mask": (ids > 0).astype("int32")}
        >>> batches = keras_lstsd.data.TokenBatches(x, np.array([0, 1]), batch_size=2)
        >>> batches[0][0]["inputs"]["token_ids"].shape, batches.padding_share()
        # (2, 4), 0.0
    """

    def __init__(
        self, x: dict, y: Any, *, lengths: int | None = 16, pool: int = 50, **options: Any
    ):
        if not isinstance(x, dict) or "padding_mask" not in x:
            raise ValueError(
                "`x` has no padding mask, which holds the lengths of the texts. "
                f"Received: {sorted(x) if isinstance(x, dict) else type(x).__name__}. Expected: "
                "a dict with 'padding_mask'; write `x = keras_lstsd.data.tokens.encode(...)`."
            )
        self.pool = count("pool", pool)
        mask = np.asarray(x["padding_mask"])
        self.tokens = mask.sum(-1, dtype=np.int32)
        chosen = np.array([mask.shape[1]])
        if lengths is not None:
            chosen = best_lengths(self.tokens, count("lengths", lengths))
        self.lengths = chosen.astype(np.int32)
        super().__init__(x, y, **options)

    def padding_share(self) -> float:
        """The share of padding among all positions of the current epoch's batches."""
        lengths = self.tokens[self.epoch_order()]
        parts = np.split(lengths, range(self.batch_size, len(lengths), self.batch_size))
        positions = sum(len(part) * self._length(part.max(), np) for part in parts)
        return float(1 - lengths.sum() / positions)

    def _length(self, longest: Any, numpy: Any) -> Any:
        """The length of a batch whose longest text has `longest` tokens."""
        return numpy.take(self.lengths, numpy.sum(self.lengths < longest))

    def _pass_order(self, number: int) -> np.ndarray:
        order = super()._pass_order(number)
        if self.shuffle is not True or len(self.lengths) == 1 or self.pool == 1:
            return order
        place = np.searchsorted(self.lengths, self.tokens)
        size = self.pool * self.batch_size
        order = np.concatenate(
            [
                rows[np.argsort(place[rows], kind="stable")]
                for rows in np.split(order, range(size, len(order), size))
            ]
        )
        return self._shuffled_batches(order, number)

    def _batch(self, sources: tuple, rows: Any, draws: Any, take: Any, numpy: Any) -> tuple:
        x, *labels = super()._batch(sources, rows, draws, take, numpy)
        longest = numpy.max(numpy.sum(x["inputs"]["padding_mask"], axis=-1))
        length = self._length(longest, numpy)
        x["inputs"] = keras.tree.map_structure(lambda ids: ids[:, :length], x["inputs"])
        return x, *labels

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"lengths": self.lengths.tolist(), "pool": self.pool}


def best_lengths(tokens: np.ndarray, number: int) -> np.ndarray:
    """The lengths of batches that need the least padding, ascending; the last is the longest text.

    Args:
        tokens: the length of each text, `[texts]`.
        number: how many lengths, at most.

    Example:
        >>> keras_lstsd.data.tokens.best_lengths(np.array([2, 2, 3, 9, 9]), 2)
        # [3, 9]
    """
    values, counts = np.unique(tokens, return_counts=True)
    before = np.concatenate([[0], counts.cumsum()])
    # Positions of the texts of values i to j, padded to value j.
    positions = values * (before[1:] - before[:-1, None]).astype(float)
    positions[np.tril_indices(len(values), -1)] = np.inf
    # Dynamic programming over the number of lengths; `first` has the best i of the last one.
    least, firsts = positions[0], []
    for _ in range(min(number, len(values)) - 1):
        totals = np.concatenate([[np.inf], least[:-1]])[:, None] + positions
        firsts.append(totals.argmin(0))
        least = totals.min(0)
    ends = [len(values) - 1]
    for first in reversed(firsts):
        ends.append(first[ends[-1]] - 1)
    return values[ends[::-1]]
