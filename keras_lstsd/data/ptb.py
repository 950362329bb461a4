"""The Penn Treebank as Mikolov prepared it: a text of 10,000 words for language models."""

from pathlib import Path

import numpy as np

from keras_lstsd.checks import count

SPLITS = ("train", "valid", "test")
END = "<eos>"


def load(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The words of each split as ids, and the vocabulary of the training text.

    A line of the files is a sentence of words with blanks between. Each ends with the word
    `<eos>`. The most frequent word of the training text has the id 0; of equal ones, the one that
    occurs first has the lower id.

    Args:
        folder: the folder with `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt`.

    Returns:
        `(ids, vocabulary)`: int32 `[words]` by split, and word -> id.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: for a text with a word that the training text does not have.

    Example:
        >>> ids, vocabulary = keras_lstsd.data.ptb.load("ptb")
        >>> {split: len(words) for split, words in ids.items()}
        # {"train": 929589, "valid": 73760, "test": 82430}; 10,000 words in the vocabulary

    Source: Mikolov et al. 2010; the files are those of Zaremba et al. 2014.
    """
    texts = {split: _words(Path(folder) / f"ptb.{split}.txt") for split in SPLITS}
    words, first, counts = np.unique(texts["train"], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    vocabulary = {word: number for number, word in enumerate(words[order].tolist())}
    ids = {}
    for split, text in texts.items():
        unknown = next((word for word in text if word not in vocabulary), None)
        if unknown is not None:
            raise ValueError(
                f"The {split} text has a word that the training text does not have. "
                f"Received: {unknown!r}. Expected: the prepared files, where rare words are <unk>."
            )
        ids[split] = np.array([vocabulary[word] for word in text], "int32")
    return ids, vocabulary


def _words(path: Path) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(
            f"A file of the Penn Treebank is missing. Received: {path}. Expected: a folder with "
            "ptb.train.txt, ptb.valid.txt and ptb.test.txt."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return [word for line in lines for word in (*line.split(), END)]


def streams(
    ids: np.ndarray, batch_size: int, length: int, drop_rest: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A text as parallel streams, cut into batches for a network that keeps its state.

    The text is cut into `batch_size` streams of equal length. Row s of batch b has words
    `b * length` to `(b + 1) * length` of stream s, so it continues row s of the batch before.
    Pass `batch_size` and `shuffle=False` to `fit`.

    Args:
        ids: the text, int `[words]`.
        batch_size: rows of a batch.
        length: words of a row.
        drop_rest: whether words that do not fill a batch are left out; otherwise the last rows
            are padded.

    Returns:
        `(x, y, weight)`, each `[batches * batch_size, length]`: ids, the ids that follow them, and
        float32 weights, 0 for padding.

    Raises:
        ValueError: for a text without one batch, and sizes below 1.

    Example:
        >>> x, y, weight = keras_lstsd.data.ptb.streams(np.arange(9), batch_size=2, length=2)
        >>> x[:2], y[:2]   # [[0, 1], [4, 5]], [[1, 2], [5, 6]]
    """
    batch_size, length = count("batch_size", batch_size), count("length", length)
    pairs, batch = len(ids) - 1, batch_size * length
    batches = pairs // batch if drop_rest else -(-pairs // batch)
    if batches < 1:
        raise ValueError(
            "The text is shorter than a batch. "
            f"Received: {len(ids)} words. Expected: more than {batch if drop_rest else 1}; use a "
            "smaller `batch_size` or `length`."
        )
    # Streams of equal length; the last one is padded, or loses its end.
    size = pairs // batch_size if drop_rest else -(-pairs // batch_size)
    kept = min(pairs, batch_size * size)

    def rows(part):
        stream = np.zeros(batch_size * size, part.dtype)
        stream[:kept] = part[:kept]
        whole = np.zeros((batch_size, batches * length), part.dtype)
        used = min(size, batches * length)
        whole[:, :used] = stream.reshape(batch_size, size)[:, :used]
        return whole.reshape(batch_size, batches, length).swapaxes(0, 1).reshape(-1, length)

    return rows(ids[:-1]), rows(ids[1:]), rows(np.ones(pairs, "float32"))
