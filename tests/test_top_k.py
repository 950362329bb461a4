import keras
import numpy as np
import pytest

from keras_lstsd import (
    ELR,
    LSTSD,
    PSKD,
    KnowledgeDistillation,
    TemporalEnsembling,
    label_quality,
    tables,
    top_k,
)
from keras_lstsd.methods.temporal_ensembling import AverageTable
from keras_lstsd.tables import SampleTable
from tests import oracles
from tests.methods.linear import CLASSES as LINEAR_CLASSES
from tests.methods.linear import linear_student, problem

numpy = keras.ops.convert_to_numpy
SAMPLES, CLASSES = 7, 5
ROWS = oracles.log_softmax(np.random.default_rng(0).normal(size=(SAMPLES, CLASSES)) * 2)


def table(k, rows=ROWS, **options):
    made = SampleTable(top_k=k, **options)
    made.build((SAMPLES, CLASSES))
    made.fill([(np.arange(len(rows)), rows.astype("float32"))])
    return made


def spread(rows, k):
    """The k largest probabilities, and the rest of the mass spread evenly."""
    p, expected = np.exp(rows), np.empty_like(rows)
    for i, row in enumerate(p):
        largest = np.argsort(-row)[:k]
        expected[i] = (1 - row[largest].sum()) / max(row.size - k, 1)
        expected[i, largest] = row[largest]
    return expected


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_the_largest_probabilities_are_kept_and_the_rest_is_spread_evenly(k):
    rows, known = table(k).read(np.arange(SAMPLES, dtype="int32"))
    assert numpy(known).all()
    np.testing.assert_allclose(np.exp(numpy(rows)), spread(ROWS, k), atol=2e-3)
    np.testing.assert_allclose(np.exp(numpy(rows)).sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_the_rest_is_shared_as_the_student_does(k):
    like = oracles.log_softmax(np.random.default_rng(1).normal(size=(SAMPLES, CLASSES)) * 3)
    index = np.arange(SAMPLES, dtype="int32")
    rows, _ = table(k).read(index, like=like.astype("float32"))
    p, q = np.exp(ROWS), np.exp(like)
    kept = oracles.kept_classes(p, k)
    expected = oracles.shared_rest(p, kept, q) if k < CLASSES else p
    np.testing.assert_allclose(np.exp(numpy(rows)), expected, atol=2e-3)
    # The divergence is that of the kept classes and of all others as one class.
    rows = numpy(rows).astype("float64")
    found = (q * (like - rows)).sum(-1)
    others = (np.where(kept, 0, part).sum(-1) for part in (q, np.exp(rows)))
    q_rest, p_rest = (np.maximum(part, 1e-300) for part in others)
    lumped = np.where(kept, q * (like - rows), 0).sum(-1) + q_rest * np.log(q_rest / p_rest)
    np.testing.assert_allclose(found, lumped, atol=1e-5)


def test_the_rest_of_a_certain_student_has_its_mass():
    """The kept classes have all but 1e-12 of the student's mass: shares of the rest stay exact."""
    kept = np.log([[0.6, 0.3]]).astype("float32")
    like = np.array([[0.0, -30.0, -29.0, -28.0]], "float32")
    rows = np.exp(numpy(top_k.spread(kept, np.array([[0, 1]], "int32"), 4, like)))
    shares = np.exp([-29.0, -28.0])
    np.testing.assert_allclose(rows[0, :2], [0.6, 0.3], rtol=1e-5)
    np.testing.assert_allclose(rows[0, 2:], 0.1 * shares / shares.sum(), rtol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_averages_keep_the_class_of_the_label(k):
    ensemble, pending = AverageTable(top_k=k), SampleTable(top_k=k)
    for made in (ensemble, pending):
        made.build((SAMPLES, CLASSES))
    index, labels = np.arange(SAMPLES), np.arange(SAMPLES) % CLASSES
    labels[2] = -1
    q, even = np.zeros((SAMPLES, CLASSES)), np.ones((SAMPLES, CLASSES))
    for epoch in range(4):
        rows = oracles.log_softmax(np.random.default_rng(epoch).normal(size=ROWS.shape) * 2)
        pending.write(index, rows.astype("float32"), labels=labels)
        ensemble.average(pending, 0.6)
        kept = with_label(np.exp(rows), k, labels)
        z = 0.6 * (1 - 0.6**epoch) * q + 0.4 * oracles.shared_rest(np.exp(rows), kept, even)
        q = z / (1 - 0.6 ** (epoch + 1))
        # Without a label, the last class of the new row stays too.
        last = np.where(labels < 0, np.argsort(-rows)[:, k - 1], labels)
        q = oracles.shared_rest(q, with_label(q, k, last), even)
        found, known = ensemble.read(index)
        assert numpy(known).all()
        np.testing.assert_allclose(np.exp(numpy(found)), q, atol=4e-3)


def with_label(p, k, labels):
    """Which classes are kept: the k largest, where the label takes the smallest one's place."""
    kept = oracles.kept_classes(p, k)
    for row, label in enumerate(labels if k > 1 else ()):
        if label >= 0 and not kept[row, label]:
            kept[row, np.where(kept[row], p[row], np.inf).argmin()] = False
            kept[row, label] = True
    return kept


@pytest.mark.parametrize(
    ("k", "label", "expected"),
    [
        (2, 3, {0: 0.5, 3: 0.05}),
        (2, 2, {0: 0.5, 2: 0.3}),
        (2, -1, {0: 0.5, 2: 0.3}),
        (3, 3, {0: 0.5, 2: 0.3, 3: 0.05}),
        (1, 3, {0: 0.5}),
    ],
)
def test_the_class_of_a_label_is_stored(k, label, expected):
    made = table(k, ROWS[:0])
    row = np.log([[0.5, 0.14, 0.3, 0.05, 0.01]]).astype("float32")
    made.write(np.array([4]), row, labels=np.array([label]))
    values, classes = (numpy(part)[4] for part in made.parts)
    found = dict(zip(classes.tolist(), np.exp(values.astype("float64")), strict=True))
    assert found == pytest.approx(expected, rel=1e-3)
    assert k == 1 or label < 0 or classes[-1] == label


def test_rows_that_a_step_writes_are_those_of_fill():
    made = table(2, ROWS[:0])
    index = np.array([3, 1, 3, 99])
    made.write(index, ROWS[[3, 1, 0, 2]].astype("float32"))
    rows, known = made.read(np.arange(SAMPLES))
    np.testing.assert_array_equal(numpy(known)[:, 0], np.isin(np.arange(SAMPLES), [1, 3]))
    # Of equal indices the last one is kept.
    np.testing.assert_allclose(np.exp(numpy(rows))[[1, 3]], spread(ROWS[[1, 0]], 2), atol=2e-3)


def test_a_row_that_is_not_finite_is_unknown():
    made = table(2)
    made.write(np.array([0]), np.full((1, CLASSES), np.nan, "float32"))
    assert not numpy(made.read(np.array([0]))[1]).any()
    assert not made.numpy()[1][0]


def test_several_tables_are_read_at_once():
    first, second = table(2), table(2, ROWS[::-1])
    rows, known = tables.read(np.array([0, 4]), [first, second])
    for made, found in zip((first, second), numpy(rows), strict=True):
        np.testing.assert_array_equal(found, numpy(made.read(np.array([0, 4]))[0]))
    assert numpy(known).all()


def test_only_known_rows_are_copied():
    made, latest = table(2), table(2, ROWS[:0])
    latest.write(np.array([1]), ROWS[[2]].astype("float32"))
    made.copy_from(latest)
    rows = np.exp(numpy(made.read(np.arange(SAMPLES))[0]))
    expected = spread(ROWS, 2)
    expected[1] = expected[2]
    np.testing.assert_allclose(rows, expected, atol=2e-3)


def test_a_row_takes_6_bytes_for_each_stored_class():
    assert table(2).mebibytes == 128 * 2 * 6 / 2**20


def test_rows_without_an_answer_and_out_of_range_indices_are_unknown():
    made = table(2, ROWS[:3])
    for dtype in ("int32", "int64"):
        _, known = made.read(np.array([2, 3, SAMPLES, -1, 10**6], dtype))
        np.testing.assert_array_equal(numpy(known)[:, 0], [True, False, False, False, False])
    np.testing.assert_array_equal(made.numpy()[1], np.arange(SAMPLES) < 3)


def test_rows_on_the_host_are_those_of_temperature_1():
    rows, _ = table(CLASSES, oracles.log_softmax(ROWS / 3.0), temperature=3.0).numpy()
    np.testing.assert_allclose(np.exp(rows), np.exp(ROWS), atol=5e-3)


def test_a_count_below_1_is_rejected():
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="top_k=0. Expected"):
        KnowledgeDistillation(student, student, stored=True, top_k=0)
    with pytest.raises(ValueError, match="Received: top_k=2, stored=False"):
        KnowledgeDistillation(student, student, top_k=2)
    with pytest.raises(ValueError, match="top_k=-1. Expected"):
        LSTSD(student, top_k=-1)


# === Methods ===

X, Y = problem()
METHODS = {
    LSTSD: {"mini_generation_epochs": 1, "temperature": 2.0},
    TemporalEnsembling: {"temperature": 2.0},
    PSKD: {},
    ELR: {},
}
each = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)


def trained(cls, epochs=3, jit_compile=False, **settings):
    keras.utils.set_random_seed(0)
    model = cls(linear_student(), **METHODS[cls], **settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.3), loss, jit_compile=jit_compile)
    return model, model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0).history["loss"]


@each
@pytest.mark.parametrize("jit_compile", [False, True])
def test_all_classes_are_the_same_as_float16_rows(cls, jit_compile):
    kept, losses = trained(cls, jit_compile=jit_compile, top_k=LINEAR_CLASSES)
    whole, expected = trained(cls, table_dtype="float16")
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    for name, made in kept.sample_tables.items():
        rows, known = made.numpy()
        np.testing.assert_array_equal(known, whole.sample_tables[name].numpy()[1])
        np.testing.assert_allclose(
            np.exp(rows[known]), np.exp(whole.sample_tables[name].numpy()[0][known]), atol=4e-3
        )


@each
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_step_writes_the_largest_probability_of_each_sample(cls, jit_compile):
    model, _ = trained(cls, epochs=1, top_k=1, jit_compile=jit_compile)
    log_probs, known = model.pending.numpy()
    assert known.all()
    temperature = METHODS[cls].get("temperature", 1.0)
    rest = np.sort(np.exp(log_probs / temperature), axis=-1)[:, :-1]
    np.testing.assert_allclose(rest, np.broadcast_to(rest[:, :1], rest.shape), rtol=1e-4)
    assert model.pending.parts[1].shape == (*model.pending.rows.shape[:1], 1)


@each
@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_have_the_margins_of_whole_rows(cls, jit_compile):
    """In epoch 0, which has no teachers."""
    margins = []
    for settings in ({"top_k": 2}, {"table_dtype": "float16"}):
        model, _ = trained(cls, epochs=1, jit_compile=jit_compile, **settings)
        log_probs, known = model.pending.numpy()
        assert known.all()
        margins.append(label_quality.margins(log_probs, Y))
    np.testing.assert_allclose(*margins, atol=0.02)


def test_an_average_of_many_rows_is_made_in_parts(monkeypatch):
    averages = []
    for decoded in (tables.DECODED, 40 * LINEAR_CLASSES):
        monkeypatch.setattr(tables, "DECODED", decoded)
        model, _ = trained(TemporalEnsembling, top_k=2)
        averages.append(
            [numpy(part) for part in model.ensemble.parts] + [model.ensemble.numpy()[0]]
        )
    for whole, parts in zip(*averages, strict=True):
        np.testing.assert_array_equal(whole, parts)
