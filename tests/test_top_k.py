import keras
import numpy as np
import pytest

from keras_lstsd import KnowledgeDistillation
from keras_lstsd.top_k import TopKTable
from tests import oracles

numpy = keras.ops.convert_to_numpy
SAMPLES, CLASSES = 7, 5
ROWS = oracles.log_softmax(np.random.default_rng(0).normal(size=(SAMPLES, CLASSES)) * 2)


def table(k, rows=ROWS):
    made = TopKTable(k)
    made.build((SAMPLES, CLASSES))
    made.fill([(np.arange(len(rows)), rows.astype("float32"))])
    return made


def spread(rows, k):
    """The k largest probabilities, and the rest of the mass spread evenly."""
    p, expected = np.exp(rows), np.empty_like(rows)
    for i, row in enumerate(p):
        largest = np.argsort(-row)[:k]
        expected[i] = (1 - row[largest].sum()) / max(CLASSES - k, 1)
        expected[i, largest] = row[largest]
    return expected


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_the_largest_probabilities_are_kept_and_the_rest_is_spread_evenly(k):
    rows, known = table(k).read(np.arange(SAMPLES, dtype="int32"))
    assert numpy(known).all()
    np.testing.assert_allclose(np.exp(numpy(rows)), spread(ROWS, k), atol=2e-3)
    np.testing.assert_allclose(np.exp(numpy(rows)).sum(-1), 1, atol=1e-6)


def test_a_row_takes_6_bytes_for_each_stored_class():
    assert table(2).mebibytes == 128 * 2 * 6 / 2**20


def test_rows_without_an_answer_and_out_of_range_indices_are_unknown():
    made = table(2, ROWS[:3])
    for dtype in ("int32", "int64"):
        _, known = made.read(np.array([2, 3, SAMPLES, -1, 10**6], dtype))
        np.testing.assert_array_equal(numpy(known)[:, 0], [True, False, False, False, False])
    np.testing.assert_array_equal(made.numpy()[1], np.arange(SAMPLES) < 3)


def test_a_step_cannot_write_it():
    with pytest.raises(NotImplementedError, match=r"write `table.fill`"):
        table(2).write(np.array([0]), ROWS[:1])


def test_a_count_below_1_is_rejected():
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="top_k=0. Expected"):
        KnowledgeDistillation(student, student, stored=True, top_k=0)
    with pytest.raises(ValueError, match="Received: top_k=2, stored=False"):
        KnowledgeDistillation(student, student, top_k=2)
