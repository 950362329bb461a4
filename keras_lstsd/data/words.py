"""Word ids: a vocabulary from the training texts, and padded sequences of ids."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

PADDING, UNKNOWN, SEPARATOR = 0, 1, 2
FIRST_WORD = 3
_WORD = re.compile(r"\w+|[^\w\s]")


def split(text: str) -> list[str]:
    """Splits a text into lower-case words; each punctuation mark is a separate word.

    Example:
        >>> keras_lstsd.data.words.split("The cat's in!")
        # ["the", "cat", "'", "s", "in", "!"]
    """
    return _WORD.findall(text.lower())


def build_vocabulary(
    texts: Iterable[str], max_size: int | None = None, min_count: int = 1
) -> dict[str, int]:
    """The vocabulary of the training texts: word -> id, the most frequent word first.

    Ids 0, 1 and 2 are reserved for padding, unknown words and the separator of two sentences.

    Args:
        texts: the training texts; words of other splits become unknown.
        max_size: the maximum number of words; None for all.
        min_count: words that occur less often are omitted.

    Example:
        >>> keras_lstsd.data.words.build_vocabulary(["A dog.", "A cat."])
        # {"a": 3, ".": 4, "dog": 5, "cat": 6}
    """
    counts = Counter(word for text in texts for word in split(text))
    # Words of equal counts keep the order of first occurrence, so the ids are reproducible.
    frequent = [word for word, count in counts.most_common(max_size) if count >= min_count]
    return {word: FIRST_WORD + rank for rank, word in enumerate(frequent)}


def encode(
    first: Sequence[str],
    second: Sequence[str] | None,
    vocabulary: dict[str, int],
    length: int | None = None,
) -> np.ndarray:
    """Word ids of texts, or pairs of texts: int32 `[texts, length]`.

    A pair becomes `first SEPARATOR second`. Rows are padded with 0 or truncated to `length`. In a
    pair, the longer text is truncated first, as in BERT.

    Args:
        first: texts.
        second: None, or the second text of each pair.
        vocabulary: word -> id, from `build_vocabulary`.
        length: words per row; None takes the longest row.

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
