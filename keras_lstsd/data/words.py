"""Words as numbers: a vocabulary from the training texts, and padded sequences of ids."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

PADDING, UNKNOWN, SEPARATOR = 0, 1, 2
FIRST_WORD = 3
_WORD = re.compile(r"\w+|[^\w\s]")


def split(text: str) -> list[str]:
    """Lower-cased words; each punctuation mark is a word of its own."""
    return _WORD.findall(text.lower())


def build_vocabulary(
    texts: Iterable[str], max_size: int | None = None, min_count: int = 1
) -> dict[str, int]:
    """Ids of the words of the training texts, the most frequent first.

    Ids 0, 1 and 2 are kept for padding, unknown words and the separator of two sentences.

    Args:
        texts: the training texts; words of other splits become unknown.
        max_size: at most that many words, or None for all.
        min_count: words seen less often are left out.

    Example:
        >>> build_vocabulary(["A dog.", "A cat."])    # {"a": 3, ".": 4, "dog": 5, "cat": 6}
    """
    counts = Counter(word for text in texts for word in split(text))
    # Equal counts stay in the order of first appearance, so the ids are reproducible.
    frequent = [word for word, count in counts.most_common(max_size) if count >= min_count]
    return {word: FIRST_WORD + rank for rank, word in enumerate(frequent)}


def encode(
    first: Sequence[str],
    second: Sequence[str] | None,
    vocabulary: dict[str, int],
    length: int | None = None,
) -> np.ndarray:
    """Texts, or pairs of texts, as rows of word ids: int32 `[texts, length]`.

    A pair becomes `first SEPARATOR second`. Rows are cut or padded with 0 to `length`; None takes
    the longest.
    """
    rows = [[vocabulary.get(word, UNKNOWN) for word in split(text)] for text in first]
    if second is not None:
        rows = [
            row + [SEPARATOR] + [vocabulary.get(word, UNKNOWN) for word in split(text)]
            for row, text in zip(rows, second, strict=True)
        ]
    length = length or max(len(row) for row in rows)
    ids = np.full((len(rows), length), PADDING, np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row[:length]
    return ids
