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
        >>> keras_lstsd.data.words.build_vocabulary(["A dog.", "A cat."])
        # {"a": 3, ".": 4, "dog": 5, "cat": 6}
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

    A pair becomes `first SEPARATOR second`. Rows are padded with 0 to `length`, or cut: the longer
    text of a pair first, as BERT does, so that the shorter one is kept. None takes the longest
    row.

    Example:
        >>> vocabulary = {"a": 3, ".": 4, "dog": 5}
        >>> keras_lstsd.data.words.encode(["A dog.", "A bird."], None, vocabulary)
        # [[3, 5, 4], [3, 1, 4]]
    """
    pairs = [(text,) for text in first] if second is None else zip(first, second, strict=True)
    rows = [
        [[vocabulary.get(word, UNKNOWN) for word in split(text)] for text in pair] for pair in pairs
    ]
    length = length or max(sum(map(len, row)) + len(row) - 1 for row in rows)
    ids = np.full((len(rows), length), PADDING, np.int32)
    for number, parts in enumerate(rows):
        excess = sum(map(len, parts)) + len(parts) - 1 - length
        for _ in range(excess):
            max(parts, key=len).pop()
        joined = parts[0] if len(parts) == 1 else [*parts[0], SEPARATOR, *parts[1]]
        ids[number, : len(joined)] = joined
    return ids
