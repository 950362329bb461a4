"""Tables against a dict of rows: whatever is written, no other row changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstsd.class_tables import ClassTable
from keras_lstsd.tables import SampleTable
from tests.bad_input.cases import (
    CLASSES,
    EXPLAINED,
    LOG_FLOOR,
    around,
    cases,
    floored,
    last_of,
    numpy,
    on_jax,
)

ENTRIES = (0.0, -0.25, -3.0, -1e-30, 1e-6, -59999.0, -7e4, -3e38, -np.inf, np.inf, np.nan)


def sample_table(samples, classes, *dtype):
    table = SampleTable(*dtype)
    table.build((samples, classes))
    return table


@st.composite
def writes(draw, samples, classes):
    """A few batches to write: `(index, rows)` each."""
    batches = []
    for size in draw(st.lists(st.sampled_from((0, 1, 4)), min_size=1, max_size=3)):
        index = draw(st.lists(around(samples), min_size=size, max_size=size))
        entries = st.lists(st.sampled_from(ENTRIES), min_size=classes, max_size=classes)
        rows = draw(st.lists(entries, min_size=size, max_size=size))
        dtype = draw(st.sampled_from(("int32", "int64")))
        array = np.array(rows, "float32").reshape(size, classes)
        batches.append((np.array(index, dtype), array))
    return batches


@cases(230)
@given(data=st.data(), samples=st.sampled_from((1, 4)), half=st.booleans())
def test_a_table_has_the_content_of_a_dict(data, samples, half):
    classes, dtype = data.draw(st.sampled_from((2, 3))), "float16" if half else "float32"
    table, expected = sample_table(samples, classes, dtype), {}
    for index, rows in data.draw(writes(samples, classes)):
        finite = np.isfinite(rows).all(axis=-1, keepdims=True)
        rows = np.where(finite, np.clip(rows, LOG_FLOOR, 0), np.nan).astype("float32")
        table.write(index, rows)
        for i, last in last_of(index).items():
            expected.pop(i, None)
            if 0 <= i < samples and finite[last]:
                expected[i] = rows[last].astype(dtype)
    np.testing.assert_array_equal(np.flatnonzero(table.numpy()[1]), sorted(expected))
    for i, row in expected.items():
        np.testing.assert_array_equal(numpy(table.rows)[i], row)
    asked = np.array(data.draw(st.lists(around(samples), min_size=4, max_size=4)), "int32")
    rows, known = numpy(*table.read(asked))
    assert rows.dtype == np.float32
    for i, row, is_known in zip(asked.tolist(), rows, known, strict=True):
        assert (is_known == (i in expected)).all()
        if i not in expected:
            continue
        stored = expected[i].astype("float32")
        if half:
            np.testing.assert_allclose(row, floored(stored), atol=1e-5)
        else:
            np.testing.assert_array_equal(row, stored)


@cases(80)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("collect", "rotate", "drop")),
            st.lists(st.integers(-1, CLASSES), min_size=3, max_size=3),
            st.lists(st.sampled_from((0.0, 0.5, 1.0, np.nan)), min_size=3, max_size=3),
        ),
        max_size=6,
    ),
    peers=st.none() | st.integers(1, 2),
)
def test_a_class_table_has_the_means_of_the_collected_samples(steps, peers):
    table = ClassTable(peers)
    table.build((CLASSES,))
    collected, expected = {}, {}
    for step, labels, firsts in steps:
        if step == "collect":
            first = np.array(firsts, "float32")
            rows = np.stack([first, 1 - first, 0 * first], axis=1)
            table.collect(np.array(labels, "int32"), rows)
            for label, row in zip(labels, rows, strict=True):
                if 0 <= label < CLASSES and np.isfinite(row).all():
                    collected.setdefault(label, []).append(row)
        elif step == "rotate":
            table.rotate()
            expected |= {label: np.mean(rows[:peers], axis=0) for label, rows in collected.items()}
            collected = {}
        else:
            table.drop()
            collected = {}
    rows, known = numpy(*table.read(np.arange(CLASSES)))
    np.testing.assert_array_equal(np.flatnonzero(known.all(-1)), sorted(expected))
    np.testing.assert_array_equal(np.flatnonzero(known.any(-1)), sorted(expected))
    for label, row in expected.items():
        np.testing.assert_allclose(np.exp(rows[label]), row, atol=1e-6)


@pytest.mark.tensorflow
def test_a_row_that_is_too_long_changes_no_other_row():
    table = sample_table(5, 2)
    with pytest.raises(ValueError, match=EXPLAINED):
        table.write(np.array([3]), np.full((1, 3), -1.0, "float32"))
    assert not table.numpy()[1].any()


def test_a_row_that_is_too_short_is_rejected():
    with pytest.raises(ValueError, match=EXPLAINED):
        sample_table(5, 2).write(np.array([3]), np.full((1, 1), -1.0, "float32"))


@pytest.mark.parametrize("dtype", ["int8", "uint8"] if not on_jax else ["int8"])
def test_a_table_takes_all_integer_dtypes(dtype):
    table = sample_table(300, 2)
    table.write(np.array([3], dtype), np.full((1, 2), -1.0, "float32"))
    assert numpy(table.read(np.array([3], dtype))[1]).all()


def test_a_table_rejects_an_index_of_rank_two():
    with pytest.raises(ValueError, match=EXPLAINED):
        sample_table(5, 2).read(np.array([[3]]))


def test_a_table_rejects_one_index_for_several_rows():
    with pytest.raises(ValueError, match=EXPLAINED):
        sample_table(5, 2).write(np.array([3]), np.full((2, 2), -1.0, "float32"))


def test_a_table_rejects_an_index_of_floats():
    with pytest.raises(ValueError, match=EXPLAINED):
        sample_table(5, 2).read(np.array([3.0], "float32"))
