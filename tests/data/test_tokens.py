import itertools

import numpy as np
import pytest

from keras_lstsd.backbones import bert
from keras_lstsd.data import TokenBatches, glue, tokens

pytestmark = pytest.mark.tensorflow
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "dog", "."]


def preprocessor(length, vocabulary=PIECES):
    return bert(2, vocabulary=vocabulary, sequence_length=length).preprocessor


def test_texts_become_ids():
    x = tokens.encode(preprocessor(6), ["A cat", "dogs. Bird"])
    expected = {
        "token_ids": [[2, 5, 6, 3, 0, 0], [2, 8, 7, 9, 1, 3]],
        "segment_ids": [[0] * 6, [0] * 6],
        "padding_mask": [[1, 1, 1, 1, 0, 0], [1] * 6],
    }
    assert {name: ids.tolist() for name, ids in x.items()} == expected
    assert {ids.dtype for ids in x.values()} == {np.dtype("int32")}


def test_pairs_share_a_row_and_the_longer_text_is_truncated():
    x = tokens.encode(preprocessor(8), ["a", "a cat a cat a cat"], ["dog", "dog"])
    assert x["token_ids"].tolist() == [[2, 5, 3, 8, 3, 0, 0, 0], [2, 5, 6, 5, 6, 3, 8, 3]]
    assert x["segment_ids"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]]
    assert x["padding_mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 8]


def test_texts_of_several_tokenizer_batches_keep_their_order():
    texts = ["a" + " cat" * (number % 3) for number in range(2500)]
    lengths = tokens.encode(preprocessor(8), texts)["padding_mask"].sum(-1)
    np.testing.assert_array_equal(lengths, 3 + np.arange(2500) % 3)


def test_stored_tokens_are_read_for_the_same_texts_and_preprocessor(tmp_path, monkeypatch):
    texts = (["A cat", "dogs."], ["a", "cats"])

    def encode(*texts, length=8, vocabulary=PIECES):
        return tokens.encode(preprocessor(length, vocabulary), *texts, cache=tmp_path / "new")

    first = encode(*texts)
    assert len(list((tmp_path / "new").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tokens.np, "concatenate", None)
        again = encode(*texts)  # Another preprocessor object, with another name.
    assert first.keys() == again.keys()
    for name, ids in tokens.encode(preprocessor(8), *texts).items():
        for stored in (first, again):
            np.testing.assert_array_equal(stored[name], ids)
            assert stored[name].dtype == np.int32
    others = [
        encode(texts[0]),
        encode(texts[0], ["a", "cat"]),
        encode(*texts, length=7),
        encode(*texts, vocabulary=[*PIECES, "bird"]),
        encode(*texts, vocabulary=[*PIECES, "Bird"]),
    ]
    assert [len(other["token_ids"][0]) for other in others] == [8, 8, 7, 8, 8]
    assert len(list((tmp_path / "new").iterdir())) == 6


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_progress_bar_counts_blocks_of_texts(capsys, verbose):
    tokens.encode(preprocessor(8), ["a"] * 2500, verbose=verbose)
    assert ("3/3" in capsys.readouterr().out) == bool(verbose)


def inputs(lengths, width=10):
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype("int32")
    ids = mask * np.arange(1, 1 + len(lengths), dtype="int32")[:, None]
    return {"token_ids": ids, "padding_mask": mask}


@pytest.mark.parametrize(
    ("lengths", "widths", "padding"),
    [(None, [10, 10, 10], 34 / 50), (4, [4, 5, 1], 3 / 19), (2, [5, 5, 3], 7 / 23)],
)
def test_batches_are_cut_to_their_longest_text(lengths, widths, padding):
    x = inputs([4, 3, 3, 5, 1])
    batches = TokenBatches(x, np.arange(5), lengths=lengths, batch_size=2, shuffle=False)
    assert batches.padding_share() == pytest.approx(padding)
    for step, (found, labels) in enumerate(batches.tf_dataset().as_numpy_iterator()):
        rows = slice(2 * step, 2 * step + 2)
        np.testing.assert_array_equal(labels, np.arange(5)[rows])
        np.testing.assert_array_equal(found["sample_index"], np.arange(5)[rows])
        same, _ = batches[step]
        for name, ids in found["inputs"].items():
            np.testing.assert_array_equal(ids, x[name][rows, : widths[step]])
            np.testing.assert_array_equal(ids, same["inputs"][name])


@pytest.mark.parametrize("number", [1, 2, 3, 9, 20])
def test_the_lengths_need_the_least_padding(number):
    lengths = np.random.default_rng(number).geometric(0.2, 30)
    found = tokens.best_lengths(lengths, number)

    def positions(chosen):
        return sum(min(length for length in chosen if length >= one) for one in lengths)

    values = sorted(set(lengths.tolist()))
    choices = itertools.combinations(values[:-1], min(number, len(values)) - 1)
    assert positions(found) == min(positions([*choice, values[-1]]) for choice in choices)
    assert len(found) == min(number, len(values))
    assert sorted(found.tolist()) == found.tolist()


@pytest.mark.parametrize("pool", [2, 50])
def test_an_epoch_has_each_text_once_in_batches_of_like_lengths(pool):
    lengths = np.random.default_rng(0).integers(1, 11, 403)
    batches, mixed = (
        TokenBatches(inputs(lengths), np.arange(403), pool=number, batch_size=4, seed=1)
        for number in (pool, 1)
    )
    orders = []
    for epoch in (3, 4, 3):
        batches.start_epoch(epoch)
        mixed.start_epoch(epoch)
        assert batches.padding_share() < mixed.padding_share() / (5 if pool == 50 else 1.2)
        orders.append(batches.epoch_order())
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(403))
        # The texts of a pool are those of the shuffled texts; then batches are shuffled.
        rows = set(mixed.epoch_order()[: 4 * pool].tolist())
        shuffled = orders[-1][:400].reshape(100, 4).tolist()
        inside = [rows.issuperset(batch) for batch in shuffled]
        assert sum(inside) == pool
        assert not all(inside[:pool])
    np.testing.assert_array_equal(orders[0], orders[2])
    assert (orders[0] != orders[1]).mean() > 0.9


def test_batches_of_other_lengths_have_another_fingerprint():
    texts = inputs([3, 4, 5, 9])
    prints = [
        TokenBatches(texts, np.arange(4), batch_size=2, **options).fingerprint()
        for options in ({}, {"lengths": 2}, {"pool": 7}, {"lengths": None})
    ]
    for first, second in itertools.combinations(prints, 2):
        assert first != second


@pytest.mark.parametrize("options", [{"lengths": 0}, {"pool": 0}, {"lengths": 2.5}])
def test_numbers_that_cannot_be_are_rejected(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TokenBatches(inputs([3, 4]), np.arange(2), **options)


def test_the_padding_share_is_that_of_the_shuffled_batches():
    lengths = np.random.default_rng(0).integers(1, 11, 23)
    batches = TokenBatches(inputs(lengths), np.arange(23), lengths=4, batch_size=4, seed=1)
    batches.start_epoch(3)
    shapes = [batches[step][0]["inputs"]["token_ids"].shape for step in range(len(batches))]
    positions = sum(rows * width for rows, width in shapes)
    assert batches.padding_share() == pytest.approx(1 - lengths.sum() / positions)


def test_token_ids_without_a_padding_mask_are_rejected():
    with pytest.raises(
        ValueError, match=r"Received: \['token_ids'\]. Expected: a dict with 'padding"
    ):
        TokenBatches({"token_ids": np.ones((2, 3))}, np.zeros(2))
    with pytest.raises(ValueError, match="Received: ndarray"):
        TokenBatches(np.ones((2, 3)), np.zeros(2))


@pytest.mark.parametrize("task", ["rte", "mrpc", "cola", "sst2"])
def test_token_ids_of_real_sentences_equal_those_of_another_tokenizer(real_data, task):
    """Of ASCII texts: in others keras-nlp folds more characters than upper case, such as ½."""
    from tokenizers import BertWordPieceTokenizer

    file = real_data / "bert/bert-uncased-vocab.txt"
    expected = BertWordPieceTokenizer(str(file))
    split = glue.load(task, "train", real_data / "glue").head(1500)
    x = tokens.encode(preprocessor(320, file), split.first, split.second)
    pairs = zip(split.first, split.second or [None] * len(split.first), strict=True)
    compared = 0
    for number, (first, second) in enumerate(pairs):
        if (first + (second or "")).isascii():
            row = expected.encode(first, second)
            length = len(row.ids)
            assert x["token_ids"][number, :length].tolist() == row.ids
            assert x["segment_ids"][number, :length].tolist() == row.type_ids
            assert x["padding_mask"][number].sum() == length
            compared += 1
    assert compared > 1300
