import keras
import numpy as np
import pytest
from keras import ops

from keras_lstsd import LSTSD
from keras_lstsd.class_tables import ClassTable, LabelTable, SamplesByClass
from keras_lstsd.data import SampleBatches

numpy = ops.convert_to_numpy
# JAX truncates integers to 32 bits before a table gets them.
on_jax = keras.backend.backend() == "jax"


def classes(number, *arguments, **options):
    table = ClassTable(*arguments, **options)
    table.build((number,))
    return table


def rows(*values):
    return np.log(np.array(values, "float32"))


# === Rows of classes ===


def test_a_class_stores_the_mean_of_collected_rows():
    table = classes(3)
    first, second = np.array([[0.2, 0.8, 0], [0.4, 0.6, 0]]), np.array([[0.1, 0.2, 0.7]])
    table.collect(np.array([1, 1]), first.astype("float32"))
    table.collect(np.array([2]), second.astype("float32"))
    assert not ops.convert_to_numpy(table.read(np.array([1]))[1]).any()
    table.rotate()
    log_probs, known = table.read(np.array([0, 1, 2]))
    np.testing.assert_array_equal(ops.convert_to_numpy(known)[:, 0], [False, True, True])
    expected = [[0.3, 0.7, 0], [0.1, 0.2, 0.7]]
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(log_probs))[1:], expected, atol=1e-6)


def test_a_class_without_samples_keeps_its_row_and_sums_start_at_zero():
    table = classes(2)
    table.collect(np.array([0, 1]), np.array([[0.9, 0.1], [0.5, 0.5]], "float32"))
    table.rotate()
    table.collect(np.array([1]), np.array([[0.2, 0.8]], "float32"))
    table.rotate()
    log_probs, _ = table.read(np.array([0, 1]))
    np.testing.assert_allclose(
        np.exp(ops.convert_to_numpy(log_probs)), [[0.9, 0.1], [0.2, 0.8]], atol=1e-6
    )


def test_only_the_first_peers_count_over_all_batches():
    table = classes(2, peers=3)
    for value in (0.1, 0.2):
        rows = np.array([[value, 1 - value]] * 2, "float32")
        table.collect(np.array([0, 0]), rows)
    table.rotate()
    log_probs, known = table.read(np.array([0, 1]))
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(log_probs))[0, 0], 0.4 / 3, rtol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(known)[:, 0], [True, False])


@pytest.mark.parametrize("peers", [None, 2])
def test_rows_of_many_classes_are_added_where_they_belong(peers):
    """More classes than rows, some classes more than once, missing labels between."""
    draw = np.random.default_rng(0)
    table, sums = classes(300, peers=peers), np.zeros((300, 301))
    for _ in range(3):
        given = draw.choice([-1, 0, 5, 5, 7, 250, 299, 300], 40)
        rows = draw.dirichlet(np.ones(300), 40).astype("float32")
        table.collect(given, rows)
        for label, row in zip(given, rows, strict=True):
            if 0 <= label < 300 and (peers is None or sums[label, -1] < peers):
                sums[label] += [*row, 1]
    np.testing.assert_allclose(numpy(table.sums), sums[:, :-1], atol=1e-6)
    np.testing.assert_array_equal(numpy(table.counts), sums[:, -1])


def test_equal_classes_are_added_in_the_order_of_the_rows():
    """TensorFlow's scatter adds equal indices in any order from about a thousand rows on."""
    draw = np.random.default_rng(0)
    labels, rows = draw.integers(0, 3, 5000), draw.normal(size=(5000, 3)).astype("float32")
    expected = None
    for _ in range(10):
        table = classes(3)
        table.collect(labels, rows)
        expected = numpy(table.sums) if expected is None else expected
        np.testing.assert_array_equal(numpy(table.sums), expected)


@pytest.mark.parametrize("label", [-1, 2, 2**31 - 1 if on_jax else 2**32])
def test_an_out_of_range_label_is_of_no_class(label):
    table = classes(2)
    table.collect(np.array([0, 1]), np.full((2, 2), 0.5, "float32"))
    table.rotate()
    _, known = table.read(np.array([0, label]))
    np.testing.assert_array_equal(ops.convert_to_numpy(known)[:, 0], [True, False])


def test_validated_labels_read_the_same_rows():
    table = classes(3)
    table.collect(np.array([0, 2]), np.array([[0.2, 0.8, 0], [0.1, 0.2, 0.7]], "float32"))
    table.rotate()
    labels = np.array([2, 1, 0], "int32")
    for ours, theirs in zip(table.read(labels, True), table.read(labels), strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@pytest.mark.parametrize("peers", [None, 1])
def test_rows_that_are_not_finite_are_not_collected(peers):
    """Nor do they count as peers."""
    table = classes(2, peers)
    table.collect(np.array([0, 0]), np.array([[np.nan, 0.5], [0.3, 0.7]], "float32"))
    table.rotate()
    log_probs, _ = table.read(np.array([0]))
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(log_probs)), [[0.3, 0.7]], atol=1e-6)


# === The class of each sample ===


def labels(number):
    table = LabelTable()
    table.build((number,))
    return table


def changed(table, index, given):
    return numpy(table.update(np.array(index), np.array(given, "int32"))).tolist()


def test_a_changed_class_is_detected():
    table = labels(4)
    assert changed(table, [0, 1, 3], [2, 0, 1]) == [False] * 3
    assert changed(table, [3, 1, 0], [1, 5, 2]) == [False, True, False]
    # The new class is stored, so the change is reported once.
    assert changed(table, [1, 2], [5, 7]) == [False, False]


def test_a_missing_class_is_neither_stored_nor_a_change():
    table = labels(2)
    assert changed(table, [0, 1], [-1, 1]) == [False, False]
    assert changed(table, [0, 1], [2, -1]) == [False, False]
    assert changed(table, [0, 1], [2, 1]) == [False, False]
    assert changed(table, [0, 1], [3, 0]) == [True, True]


@pytest.mark.parametrize("bad", [-1, 2, 127, 128, 2**31 - 1 if on_jax else 2**40])
def test_an_out_of_range_index_has_no_class(bad):
    table = labels(2)
    assert changed(table, [0, 1], [0, 1]) == [False, False]
    assert changed(table, [bad], [3]) == changed(table, [bad], [4]) == [False]
    assert numpy(table.rows)[:2].tolist() == [0, 1]


@pytest.mark.parametrize("layer", [keras.layers.MixUp(dtype="float32"), None])
def test_labels_of_mixed_samples_are_not_stored(layer):
    """A mixed label is not the sample's class, so it would look like a changed one."""
    network = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    )
    model = LSTSD(network, 4)
    model.compile("sgd", "categorical_crossentropy")
    # Sample 2 is there twice, so the index is not validated and the step checks it.
    x = {"inputs": np.zeros((5, 2, 2, 3), "float32"), "sample_index": np.array([0, 1, 2, 2, 3])}
    y = np.eye(2)[[0, 1, 1, 1, 0]]
    data = SampleBatches(x, y, batch_size=5, layers=[layer] if layer else [])
    model.fit(data, epochs=2, verbose=0)
    stored = numpy(model._label_table.rows)[:4].tolist()
    assert stored == ([-1] * 4 if layer else [0, 1, 1, 0])


# === Samples of each class ===


def by_class(classes, number):
    table = SamplesByClass()
    table.build((len(classes), number))
    table.fill((np.array([i]), np.array([c])) for i, c in enumerate(classes))
    return table


def test_samples_of_other_classes_are_all_of_them_in_turn():
    """Numbers 0, 1, ... as draws give each sample of another class once in a round."""
    classes = np.array([2, 0, 2, 1, 0, 2, 3])
    table = by_class(classes, 5)
    draws = np.arange(8, dtype="uint32")
    found = numpy(table.of_other_classes(np.arange(7, dtype="int32"), np.tile(draws, (7, 1))))
    for own, row in enumerate(found):
        others = np.flatnonzero(classes != classes[own])
        assert sorted(row[: len(others)]) == others.tolist()
        assert row[len(others)] == row[0]


def test_a_sample_of_unknown_class_is_no_negative_and_takes_any():
    table = by_class([1, 255, 0, 1], 2)
    draws = np.tile(np.arange(3, dtype="uint32"), (2, 1))
    found = numpy(table.of_other_classes(np.int32([1, 0]), draws))
    assert sorted(found[0]) == [0, 2, 3]
    assert found[1].tolist() == [2, 2, 2]


def test_two_classes_are_needed():
    with pytest.raises(ValueError, match="(?s)two classes.*Received: 2 samples.*1 classes"):
        by_class([1, 1, -1], 3)
