import numpy as np
import pytest

from keras_lstsd.data import ptb


@pytest.fixture
def folder(tmp_path):
    texts = {"train": " b a \n a c a \n", "valid": " c \n", "test": " a b \n"}
    for split, text in texts.items():
        (tmp_path / f"ptb.{split}.txt").write_text(text)
    return tmp_path


def test_words_are_numbered_by_frequency_and_lines_end_with_a_word(folder):
    ids, vocabulary = ptb.load(folder)
    assert vocabulary == {"a": 0, "<eos>": 1, "b": 2, "c": 3}
    assert ids["train"].tolist() == [2, 0, 1, 0, 3, 0, 1]
    assert ids["valid"].tolist() == [3, 1]
    assert ids["test"].tolist() == [0, 2, 1]
    assert ids["test"].dtype == np.int32


def test_a_word_that_the_training_text_lacks_is_rejected(folder):
    (folder / "ptb.valid.txt").write_text("a dog\n")
    with pytest.raises(ValueError, match="The valid text has a word.*Received: 'dog'"):
        ptb.load(folder)


def test_a_missing_file_is_named(folder):
    (folder / "ptb.test.txt").unlink()
    with pytest.raises(FileNotFoundError, match="Received: .*ptb.test.txt"):
        ptb.load(folder)


@pytest.mark.parametrize("drop_rest", [False, True])
@pytest.mark.parametrize("words", [7, 8, 13, 25, 60])
def test_each_stream_continues_from_batch_to_batch(words, drop_rest):
    """Written the slow way: word by word from the text."""
    batch_size, length = 3, 2
    text = np.arange(100, 100 + words)
    x, y, weight = ptb.streams(text, batch_size, length, drop_rest)
    per_stream = (words - 1) // batch_size if drop_rest else -(-(words - 1) // batch_size)
    batches = len(x) // batch_size
    seen = []
    for batch in range(batches):
        for stream in range(batch_size):
            for place in range(length):
                row = batch * batch_size + stream
                offset = batch * length + place
                position = stream * per_stream + offset
                inside = offset < per_stream and position < words - 1
                assert weight[row, place] == inside
                if inside:
                    assert (x[row, place], y[row, place]) == (100 + position, 101 + position)
                    seen.append(position)
    if drop_rest:
        assert weight.all()
        assert batches == (words - 1) // (batch_size * length)
    else:
        assert sorted(seen) == list(range(words - 1))


def test_a_text_without_a_batch_is_rejected():
    with pytest.raises(ValueError, match="Received: 6 words. Expected: more than 6"):
        ptb.streams(np.arange(6), 3, 2, drop_rest=True)
    with pytest.raises(ValueError, match="Received: 1 words. Expected: more than 1"):
        ptb.streams(np.arange(1), 3, 2)
