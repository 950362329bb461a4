"""Token ids of texts: tokenised once, stored, and cut to the longest text of each batch."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lstsd.data.batches import SampleBatches


def encode(
    preprocessor: Any, first: Sequence[str], second: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Tokenises texts, or pairs of texts: a dict of int32 `[texts, sequence_length]`.

    It runs in tf.data, on all cores. For BERT the keys are `"token_ids"`, `"segment_ids"` and
    `"padding_mask"`, and a pair becomes one row, `[CLS] first [SEP] second [SEP]`. Rows are padded
    or truncated; in a pair, the longer text is truncated first.

    Args:
        preprocessor: the preprocessor of a KerasHub text classifier (`student.preprocessor`).
        first: texts.
        second: None, or the second text of each pair.

    Example:
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s"]
        >>> student = keras_lstsd.backbones.bert(2, vocabulary=pieces, sequence_length=8)
        >>> keras_lstsd.data.tokens.encode(student.preprocessor, ["Cats", "a cat"])["token_ids"]
        # [[2, 6, 7, 3, 0, 0, 0, 0], [2, 5, 6, 3, 0, 0, 0, 0]]
    """
    import tensorflow as tf

    texts = (list(first),) if second is None else (list(first), list(second))
    batches = (
        tf.data.Dataset.from_tensor_slices(texts)
        .batch(1024)
        # Without `y` the preprocessor would take the second text as the label.
        .map(lambda *texts: preprocessor(texts, y=None), num_parallel_calls=tf.data.AUTOTUNE)
    )
    return keras.tree.map_structure(
        lambda *parts: np.concatenate(parts).astype(np.int32), *batches.as_numpy_iterator()
    )


class TokenBatches(SampleBatches):
    """`SampleBatches` of token ids, each batch cut to the length of its longest text.

    A padding token costs as much as a word. XLA compiles the step for each length, so lengths
    are rounded up.

    Args:
        x: dict of arrays `[samples, sequence_length]`, as `encode` returns it, including
            `"padding_mask"`, with padding on the right.
        y: array of labels, one row per sample.
        multiple: lengths are rounded up to a multiple of this; None keeps the full length.
        options: further arguments of `SampleBatches`.

    Raises:
        ValueError: when x is not such a dict, and where `SampleBatches` raises it.

    Example:
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s"]
        >>> student = keras_lstsd.backbones.bert(2, vocabulary=pieces)
        >>> x = keras_lstsd.data.tokens.encode(student.preprocessor, ["Cats", "a cat"])
        >>> batches = keras_lstsd.data.TokenBatches(x, np.array([0, 1]), batch_size=2)
        >>> batches[0][0]["inputs"]["token_ids"].shape, batches.padding_share()
        # (2, 16), 0.75
    """

    def __init__(self, x: dict, y: Any, *, multiple: int | None = 16, **options: Any):
        if not isinstance(x, dict) or "padding_mask" not in x:
            raise ValueError(
                "`x` has no padding mask, which holds the lengths of the texts. "
                f"Received: {sorted(x) if isinstance(x, dict) else type(x).__name__}. Expected: "
                "a dict with 'padding_mask'; write `x = keras_lstsd.data.tokens.encode(...)`."
            )
        self.multiple = multiple
        super().__init__(x, y, **options)

    def padding_share(self) -> float:
        """The share of padding among all positions of the current epoch's batches."""
        lengths = self.inputs["padding_mask"].sum(-1)[self.epoch_order()]
        parts = np.split(lengths, range(self.batch_size, len(lengths), self.batch_size))
        positions = sum(len(part) * int(self._length(part.max(), np)) for part in parts)
        return 1 - float(lengths.sum()) / positions

    def _length(self, longest: Any, numpy: Any) -> Any:
        """The length of a batch whose longest text has `longest` tokens."""
        width = self.inputs["padding_mask"].shape[1]
        if self.multiple is None:
            return width
        return numpy.minimum(-(-longest // self.multiple) * self.multiple, width)

    def _batch(self, sources: tuple, rows: Any, draws: Any, take: Any, numpy: Any) -> tuple:
        x, *labels = super()._batch(sources, rows, draws, take, numpy)
        longest = numpy.max(numpy.sum(x["inputs"]["padding_mask"], axis=-1))
        length = self._length(longest, numpy)
        x["inputs"] = keras.tree.map_structure(lambda ids: ids[:, :length], x["inputs"])
        return x, *labels
