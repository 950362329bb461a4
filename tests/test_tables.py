import keras
import numpy as np
import pytest
from keras import ops

from keras_lstsd.losses import log_softmax
from keras_lstsd.tables import SampleTable, counts, read

numpy = ops.convert_to_numpy
# JAX truncates integers to 32 bits before a table gets them.
on_jax = keras.backend.backend() == "jax"


def samples(number, width, *arguments, **options):
    table = SampleTable(*arguments, **options)
    table.build((number, width))
    return table


def rows(*values):
    return np.log(np.array(values, "float32"))


def test_written_rows_are_read_and_others_are_unknown():
    table = samples(5, 2)
    table.write(np.array([3, 0]), rows([0.2, 0.8], [0.6, 0.4]))
    log_probs, known = table.read(np.array([0, 1, 3]))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(known), [[True] * 2, [False] * 2, [True] * 2]
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(log_probs)[[0, 2]], rows([0.6, 0.4], [0.2, 0.8])
    )


def test_of_equal_indices_the_last_row_is_stored():
    table = samples(3, 2)
    table.write(np.array([1, 2, 1]), rows([0.1, 0.9], [0.5, 0.5], [0.7, 0.3]))
    log_probs, known = table.numpy()
    np.testing.assert_array_equal(known, [False, True, True])
    np.testing.assert_allclose(log_probs[1:], rows([0.7, 0.3], [0.5, 0.5]), rtol=1e-6)


def test_of_equal_indices_the_last_row_is_stored_even_if_not_finite():
    table = samples(3, 2)
    table.write(np.array([1, 2, 1]), rows([0.1, 0.9], [0.5, 0.5], [np.nan, np.nan]))
    np.testing.assert_array_equal(table.numpy()[1], [False, False, True])


@pytest.mark.parametrize("bad", [-1, 3, 99, -99])
def test_an_out_of_range_index_changes_no_row_and_is_unknown(bad):
    table = samples(3, 2)
    table.write(np.array([0, 1, 2]), rows([0.1, 0.9], [0.2, 0.8], [0.3, 0.7]))
    before, _ = table.numpy()
    table.write(np.array([bad]), rows([0.5, 0.5]))
    np.testing.assert_array_equal(table.numpy()[0], before)
    assert not ops.convert_to_numpy(table.read(np.array([bad]))[1]).any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("logits", [[np.nan, 0.0], [0.0, np.nan], [0.0, np.inf], [-np.inf] * 2])
def test_rows_that_are_not_finite_are_unknown_and_not_copied(logits, dtype):
    table, copy = samples(2, 2, dtype), samples(2, 2, dtype)
    copy.write(np.array([0]), rows([0.1, 0.9]))
    table.write(np.array([0, 1]), log_softmax(np.array([logits, [0.0, 0.0]], "float32")))
    np.testing.assert_array_equal(table.numpy()[1], [False, True])
    np.testing.assert_array_equal(numpy(table.read(np.array([0, 1]))[1]), [[False] * 2, [True] * 2])
    copy.copy_from(table)
    log_probs, known = copy.numpy()
    assert known.all()
    np.testing.assert_allclose(log_probs, rows([0.1, 0.9], [0.5, 0.5]), rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_validated_index_reads_and_writes_the_same_rows(dtype):
    index, asked = np.array([4, 0, 2], "int32"), np.array([2, 0, 4], "int32")
    rows_ = rows([0.1, 0.9], [np.nan, np.nan], [0.3, 0.7])
    tables = [samples(5, 2, dtype) for _ in (True, False)]
    found = []
    for table, validated in zip(tables, (True, False), strict=True):
        table.write(np.array([0]), rows([0.5, 0.5]))
        table.write(index, rows_, validated)
        found.append([numpy(part) for part in (*table.read(asked, validated), *table.numpy())])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found[0][3], [False, False, True, False, True])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_whose_log_probability_was_rounded_above_0_is_known(dtype):
    table = samples(1, 2, dtype=dtype)
    table.write(np.array([0]), np.array([[6e-8, -20.0]], "float32"))
    assert numpy(table.read(np.array([0]))[1]).all()
    assert table.numpy()[1].all()


def test_float16_takes_half_the_memory_and_stores_tiny_probabilities():
    table = samples(1023, 100, dtype="float16")
    assert table.mebibytes == 1024 * 100 * 2 / 2**20
    row = np.full((1, 100), -6e4, "float32")
    row[0, 7] = 0
    table.write(np.array([4]), row)
    log_probs, _ = table.read(np.array([4]))
    log_probs = ops.convert_to_numpy(log_probs)
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(log_probs, row, rtol=1e-3)


def test_float16_rows_sum_to_1_when_they_are_read():
    table = samples(1, 100, dtype="float16")
    row = np.log(np.random.default_rng(0).dirichlet(np.ones(100), 1)).astype("float32")
    table.write(np.array([0]), row)
    assert abs(np.exp(numpy(table.rows)[0].astype("float32")).sum() - 1) > 1e-5
    np.testing.assert_allclose(np.exp(numpy(table.read(np.array([0]))[0])).sum(), 1, atol=1e-6)
    assert not numpy(table.read(np.array([1]))[1]).any()


def test_numpy_gives_rows_of_temperature_1():
    table = samples(2, 3, temperature=2.0)
    z = np.array([[1.0, -2.0, 4.0]], "float32")
    softened = np.log(np.exp(z / 2) / np.exp(z / 2).sum())
    table.write(np.array([1]), softened)
    np.testing.assert_allclose(numpy(table.read(np.array([1]))[0]), softened, rtol=1e-6)
    log_probs, known = table.numpy()
    assert known.tolist() == [False, True]
    np.testing.assert_allclose(log_probs[1], np.log(np.exp(z) / np.exp(z).sum())[0], atol=1e-6)


def test_several_tables_are_read_at_once():
    first, second = samples(2, 2), samples(2, 2)
    first.write(np.array([0]), rows([0.1, 0.9]))
    second.write(np.array([1]), rows([0.3, 0.7]))
    log_probs, known = (numpy(part) for part in read(np.array([1, 0, 5]), [first, second]))
    for column in np.moveaxis(known, -1, 0):
        np.testing.assert_array_equal(column, [[False, True, False], [True, False, False]])
    np.testing.assert_allclose(log_probs[0, 1], rows([0.1, 0.9])[0])
    np.testing.assert_allclose(log_probs[1, 0], rows([0.3, 0.7])[0])


def test_rows_are_counted():
    drawn = np.int32([[2, 0, 2], [1, 1, 1]])
    np.testing.assert_array_equal(numpy(counts(drawn, 4)), [[1, 0, 2, 0], [0, 3, 0, 0]])


def test_copies_are_independent():
    first, second = samples(2, 2), samples(2, 2)
    first.write(np.array([0]), rows([0.1, 0.9]))
    second.copy_from(first)
    first.write(np.array([0]), rows([0.5, 0.5]))
    np.testing.assert_allclose(second.numpy()[0][0], rows([0.1, 0.9])[0], rtol=1e-6)


def test_an_unknown_dtype_is_rejected():
    with pytest.raises(ValueError, match=r"table_dtype.*'int8'.*float16"):
        samples(2, 2, dtype="int8")


# === Rows and spare rows ===


@pytest.mark.parametrize(
    ("number", "padded"), [(1, 128), (127, 128), (128, 256), (255, 256), (256, 384)]
)
def test_rows_are_padded_to_a_multiple_of_128_with_a_spare_row(number, padded):
    assert samples(number, 2).rows.shape == (padded, 2)


def test_spare_rows_are_never_known():
    table = samples(3, 2)
    # An out-of-range index is written to the spare row 3.
    table.write(np.array([-1, 3, 127, 128]), rows(*[[0.5, 0.5]] * 4))
    assert not numpy(table.read(np.array([-1, 3, 4, 127, 128]))[1]).any()
    log_probs, known = table.numpy()
    assert log_probs.shape == (3, 2)
    assert not known.any()


def test_spare_rows_stay_unknown_when_a_table_is_copied():
    table, copy = samples(3, 2), samples(3, 2)
    table.write(np.array([0, 3]), rows([0.1, 0.9], [0.5, 0.5]))
    copy.copy_from(table)
    assert numpy(copy.read(np.array([0, 3]))[1]).tolist() == [[True] * 2, [False] * 2]


def test_the_last_sample_has_its_own_row():
    table = samples(127, 2)
    table.write(np.array([126, 127]), rows([0.1, 0.9], [0.5, 0.5]))
    np.testing.assert_allclose(table.numpy()[0][126], rows([0.1, 0.9])[0], rtol=1e-6)


def test_clear_marks_all_rows_as_unwritten():
    table = samples(3, 2)
    table.write(np.array([0, 2]), rows([0.1, 0.9], [0.5, 0.5]))
    table.clear()
    assert not table.numpy()[1].any()
