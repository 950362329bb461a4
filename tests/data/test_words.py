import numpy as np

from keras_lstsd.data import words


def test_words_are_lower_case_and_punctuation_is_separate():
    assert words.split("The cat's in!") == ["the", "cat", "'", "s", "in", "!"]


def test_frequent_words_come_first_and_ties_keep_their_order():
    texts = ["b a a", "c b a d"]
    assert words.build_vocabulary(texts) == {"a": 3, "b": 4, "c": 5, "d": 6}
    assert words.build_vocabulary(texts, max_size=2) == {"a": 3, "b": 4}
    assert words.build_vocabulary(texts, min_count=2) == {"a": 3, "b": 4}


def test_texts_are_padded_and_unknown_words_have_their_id():
    vocabulary = {"a": 3, "b": 4}
    found = words.encode(["a", "b x a"], None, vocabulary)
    np.testing.assert_array_equal(found, [[3, 0, 0], [4, 1, 3]])
    assert found.dtype == np.int32


def test_pairs_are_joined_and_the_longer_text_is_truncated():
    vocabulary = {"a": 3, "b": 4}
    np.testing.assert_array_equal(
        words.encode(["a a a a a", "a"], ["b b", "b b b"], vocabulary, length=5),
        [[3, 3, 2, 4, 4], [3, 2, 4, 4, 4]],
    )
