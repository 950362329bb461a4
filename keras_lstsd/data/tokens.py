"""Texts as the token ids of a language model: tokenised once, kept, cut to size in each batch."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lstsd.data.pipeline import SampleBatches


def encode(
    preprocessor: Any, first: Sequence[str], second: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Texts, or pairs of texts, as a network takes them: int32 `[texts, sequence_length]` each.

    Tokenises inside tf.data, on all cores. For BERT the keys are `"token_ids"`, `"segment_ids"`
    and `"padding_mask"`, and a pair becomes one row, `[CLS] first [SEP] second [SEP]`; rows are
    padded, or cut: the longer text of a pair first.

    Args:
        preprocessor: that of a text classifier of KerasHub, such as `student.preprocessor`.
        first: texts.
        second: None, or what each text is paired with.

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
        # Without `y` the second text would be taken for the label.
        .map(lambda *texts: preprocessor(texts, y=None), num_parallel_calls=tf.data.AUTOTUNE)
    )
    return keras.tree.map_structure(
        lambda *parts: np.concatenate(parts).astype(np.int32), *batches.as_numpy_iterator()
    )


class TokenBatches(SampleBatches):
    """`SampleBatches` of token ids, of which each is cut to the length of its longest text.

    Padding costs as much as words do. Under XLA each length is compiled, hence the rounding.

    Args:
        x: dict of arrays `[samples, sequence_length]`, as `encode` makes it, with
            `"padding_mask"` among them and padding on the right.
        y: array of labels, one row a sample.
        multiple: lengths are rounded up to a multiple of this; None cuts nothing.
        options: those of `SampleBatches`.

    Raises:
        ValueError: when x is not such a dict; and as `SampleBatches` does.

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
                "The mask of padding tells how long texts are. "
                f"Received: {sorted(x) if isinstance(x, dict) else type(x).__name__}. Expected: "
                "a dict with 'padding_mask', as `keras_lstsd.data.tokens.encode` makes it."
            )
        self.multiple = multiple
        super().__init__(x, y, **options)

    def padding_share(self) -> float:
        """The share of positions in the present epoch's batches that hold padding."""
        lengths = self.inputs["padding_mask"].sum(-1)[self.epoch_order()]
        parts = np.split(lengths, range(self.batch_size, len(lengths), self.batch_size))
        positions = sum(len(part) * int(self._length(part.max(), np)) for part in parts)
        return 1 - float(lengths.sum()) / positions

    def _length(self, longest: Any, numpy: Any) -> Any:
        """Positions in a batch whose longest text is so long."""
        width = self.inputs["padding_mask"].shape[1]
        if self.multiple is None:
            return width
        return numpy.minimum(-(-longest // self.multiple) * self.multiple, width)

    def _batch(self, arrays: tuple, rows: Any, draws: Any, take: Any, numpy: Any) -> tuple:
        x, *labels = super()._batch(arrays, rows, draws, take, numpy)
        longest = numpy.max(numpy.sum(x["inputs"]["padding_mask"], axis=-1))
        length = self._length(longest, numpy)
        x["inputs"] = keras.tree.map_structure(lambda ids: ids[:, :length], x["inputs"])
        return x, *labels
