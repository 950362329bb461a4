import keras
import numpy as np
import pytest
from keras import ops

from keras_lstsd.losses import log_softmax
from keras_lstsd.tables import ClassTable, SampleTable, read

numpy = ops.convert_to_numpy
# JAX cuts integers down to 32 bits before a table sees them.
on_jax = keras.backend.backend() == "jax"


def rows(*values):
    return np.log(np.array(values, "float32"))


def test_rows_come_back_and_others_stay_unknown():
    table = SampleTable(5, 2)
    table.write(np.array([3, 0]), rows([0.2, 0.8], [0.6, 0.4]))
    log_probs, known = table.read(np.array([0, 1, 3]))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(known), [[True] * 2, [False] * 2, [True] * 2]
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(log_probs)[[0, 2]], rows([0.6, 0.4], [0.2, 0.8])
    )


def test_of_equal_indices_the_last_row_stays():
    table = SampleTable(3, 2)
    table.write(np.array([1, 2, 1]), rows([0.1, 0.9], [0.5, 0.5], [0.7, 0.3]))
    log_probs, known = table.numpy()
    np.testing.assert_array_equal(known, [False, True, True])
    np.testing.assert_allclose(log_probs[1:], rows([0.7, 0.3], [0.5, 0.5]), rtol=1e-6)


def test_of_equal_indices_the_last_row_counts_finite_or_not():
    table = SampleTable(3, 2)
    table.write(np.array([1, 2, 1]), rows([0.1, 0.9], [0.5, 0.5], [np.nan, np.nan]))
    np.testing.assert_array_equal(table.numpy()[1], [False, False, True])


@pytest.mark.parametrize("bad", [-1, 3, 99, -99])
def test_an_index_outside_touches_nobody_and_knows_nothing(bad):
    table = SampleTable(3, 2)
    table.write(np.array([0, 1, 2]), rows([0.1, 0.9], [0.2, 0.8], [0.3, 0.7]))
    before, _ = table.numpy()
    table.write(np.array([bad]), rows([0.5, 0.5]))
    np.testing.assert_array_equal(table.numpy()[0], before)
    assert not ops.convert_to_numpy(table.read(np.array([bad]))[1]).any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("logits", [[np.nan, 0.0], [0.0, np.nan], [0.0, np.inf], [-np.inf] * 2])
def test_what_is_not_finite_is_not_known_and_takes_no_place_in_a_copy(logits, dtype):
    table, copy = SampleTable(2, 2, dtype), SampleTable(2, 2, dtype)
    copy.write(np.array([0]), rows([0.1, 0.9]))
    table.write(np.array([0, 1]), log_softmax(np.array([logits, [0.0, 0.0]], "float32")))
    np.testing.assert_array_equal(table.numpy()[1], [False, True])
    np.testing.assert_array_equal(numpy(table.read(np.array([0, 1]))[1]), [[False] * 2, [True] * 2])
    copy.copy_from(table)
    log_probs, known = copy.numpy()
    assert known.all()
    np.testing.assert_allclose(log_probs, rows([0.1, 0.9], [0.5, 0.5]), rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_checked_index_finds_and_leaves_the_same_rows(dtype):
    index, asked = np.array([4, 0, 2], "int32"), np.array([2, 0, 4], "int32")
    rows_ = rows([0.1, 0.9], [np.nan, np.nan], [0.3, 0.7])
    tables = [SampleTable(5, 2, dtype) for _ in (True, False)]
    found = []
    for table, checked in zip(tables, (True, False), strict=True):
        table.write(np.array([0]), rows([0.5, 0.5]))
        table.write(index, rows_, checked)
        found.append([numpy(part) for part in (*table.read(asked, checked), *table.numpy())])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found[0][3], [False, False, True, False, True])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_logarithm_of_one_that_was_rounded_upwards_is_known(dtype):
    table = SampleTable(1, 2, dtype=dtype)
    table.write(np.array([0]), np.array([[6e-8, -20.0]], "float32"))
    assert numpy(table.read(np.array([0]))[1]).all()
    assert table.numpy()[1].all()


def test_float16_takes_half_the_memory_and_holds_tiny_probabilities():
    table = SampleTable(1023, 100, dtype="float16")
    assert table.mebibytes == 1024 * 100 * 2 / 2**20
    row = np.full((1, 100), -6e4, "float32")
    row[0, 7] = 0
    table.write(np.array([4]), row)
    log_probs, _ = table.read(np.array([4]))
    log_probs = ops.convert_to_numpy(log_probs)
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(log_probs, row, rtol=1e-3)


def test_rows_of_float16_sum_to_one_when_they_are_asked():
    table = SampleTable(1, 100, dtype="float16")
    row = np.log(np.random.default_rng(0).dirichlet(np.ones(100), 1)).astype("float32")
    table.write(np.array([0]), row)
    assert abs(np.exp(numpy(table.rows)[0].astype("float32")).sum() - 1) > 1e-5
    np.testing.assert_allclose(np.exp(numpy(table.read(np.array([0]))[0])).sum(), 1, atol=1e-6)
    assert not numpy(table.read(np.array([1]))[1]).any()


def test_on_the_host_rows_are_of_temperature_1():
    table = SampleTable(2, 3, temperature=2.0)
    z = np.array([[1.0, -2.0, 4.0]], "float32")
    softened = np.log(np.exp(z / 2) / np.exp(z / 2).sum())
    table.write(np.array([1]), softened)
    np.testing.assert_allclose(numpy(table.read(np.array([1]))[0]), softened, rtol=1e-6)
    log_probs, known = table.numpy()
    assert known.tolist() == [False, True]
    np.testing.assert_allclose(log_probs[1], np.log(np.exp(z) / np.exp(z).sum())[0], atol=1e-6)


def test_several_tables_are_asked_at_once():
    first, second = SampleTable(2, 2), SampleTable(2, 2)
    first.write(np.array([0]), rows([0.1, 0.9]))
    second.write(np.array([1]), rows([0.3, 0.7]))
    log_probs, known = (numpy(part) for part in read(np.array([1, 0, 5]), [first, second]))
    for column in np.moveaxis(known, -1, 0):
        np.testing.assert_array_equal(column, [[False, True, False], [True, False, False]])
    np.testing.assert_allclose(log_probs[0, 1], rows([0.1, 0.9])[0])
    np.testing.assert_allclose(log_probs[1, 0], rows([0.3, 0.7])[0])


def test_copies_are_independent():
    first, second = SampleTable(2, 2), SampleTable(2, 2)
    first.write(np.array([0]), rows([0.1, 0.9]))
    second.copy_from(first)
    first.write(np.array([0]), rows([0.5, 0.5]))
    np.testing.assert_allclose(second.numpy()[0][0], rows([0.1, 0.9])[0], rtol=1e-6)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match=r"table_dtype.*'int8'.*float16"):
        SampleTable(2, 2, dtype="int8")


# === Classes ===


def test_classes_keep_the_mean_of_what_was_collected():
    table = ClassTable(3)
    first, second = np.array([[0.2, 0.8, 0], [0.4, 0.6, 0]]), np.array([[0.1, 0.2, 0.7]])
    table.collect(np.array([1, 1]), first.astype("float32"))
    table.collect(np.array([2]), second.astype("float32"))
    assert not ops.convert_to_numpy(table.read(np.array([1]))[1]).any()
    table.rotate()
    log_probs, known = table.read(np.array([0, 1, 2]))
    np.testing.assert_array_equal(ops.convert_to_numpy(known)[:, 0], [False, True, True])
    expected = [[0.3, 0.7, 0], [0.1, 0.2, 0.7]]
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(log_probs))[1:], expected, atol=1e-6)


def test_a_class_not_met_keeps_its_row_and_collecting_begins_anew():
    table = ClassTable(2)
    table.collect(np.array([0, 1]), np.array([[0.9, 0.1], [0.5, 0.5]], "float32"))
    table.rotate()
    table.collect(np.array([1]), np.array([[0.2, 0.8]], "float32"))
    table.rotate()
    log_probs, _ = table.read(np.array([0, 1]))
    np.testing.assert_allclose(
        np.exp(ops.convert_to_numpy(log_probs)), [[0.9, 0.1], [0.2, 0.8]], atol=1e-6
    )


def test_the_first_peers_count_also_over_batches():
    table = ClassTable(2, peers=3)
    for value in (0.1, 0.2):
        rows = np.array([[value, 1 - value]] * 2, "float32")
        table.collect(np.array([0, 0]), rows)
    table.rotate()
    log_probs, known = table.read(np.array([0, 1]))
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(log_probs))[0, 0], 0.4 / 3, rtol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(known)[:, 0], [True, False])


@pytest.mark.parametrize("label", [-1, 2, 2**31 - 1 if on_jax else 2**32])
def test_a_label_outside_is_of_no_class(label):
    table = ClassTable(2)
    table.collect(np.array([0, 1]), np.full((2, 2), 0.5, "float32"))
    table.rotate()
    _, known = table.read(np.array([0, label]))
    np.testing.assert_array_equal(ops.convert_to_numpy(known)[:, 0], [True, False])


def test_checked_labels_find_the_same_rows():
    table = ClassTable(3)
    table.collect(np.array([0, 2]), np.array([[0.2, 0.8, 0], [0.1, 0.2, 0.7]], "float32"))
    table.rotate()
    labels = np.array([2, 1, 0], "int32")
    for ours, theirs in zip(table.read(labels, True), table.read(labels), strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@pytest.mark.parametrize("peers", [None, 1])
def test_what_is_not_finite_is_not_collected(peers):
    """Nor does it stand in the place of a peer."""
    table = ClassTable(2, peers)
    table.collect(np.array([0, 0]), np.array([[np.nan, 0.5], [0.3, 0.7]], "float32"))
    table.rotate()
    log_probs, _ = table.read(np.array([0]))
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(log_probs)), [[0.3, 0.7]], atol=1e-6)
