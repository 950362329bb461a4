import keras
import numpy as np
import pytest

from keras_lstsd import DUPS
from tests import oracles
from tests.methods.linear import (
    BATCH,
    CLASSES,
    GENERATION,
    SAMPLES,
    follow,
    linear_student,
    problem,
)

X, Y = problem()


def teacher(model):
    rows = np.array(model.class_table.rows.numpy())
    return np.where(rows <= 0, np.exp(rows), np.nan)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_follows_the_simulation(jit_compile):
    follow(
        oracles.dups,
        DUPS,
        lambda model: {"class_probabilities": teacher(model)},
        jit_compile,
        mini_generation_epochs=GENERATION,
        student_weight=0.8,
        teacher_weight=0.4,
        temperature=3.0,
    )


def frozen(peers, seed=0, y=Y):
    """The teacher after a stage in which the student does not change."""
    keras.utils.set_random_seed(seed)
    student = linear_student()
    student.set_weights([np.random.default_rng(0).normal(size=w.shape) for w in student.weights])
    model = DUPS(student, mini_generation_epochs=1, peers=peers, temperature=2.0)
    loss = keras.losses.CategoricalCrossentropy if y.ndim == 2 else None
    loss = (loss or keras.losses.SparseCategoricalCrossentropy)(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    model.fit(X, y, batch_size=BATCH, epochs=2, verbose=0)
    kernel, bias = student.get_weights()
    return teacher(model), oracles.softmax((X @ kernel + bias) / 2.0)


def test_peers_are_n_random_samples_of_the_class():
    """Each row is the mean of some n samples of the class, and other seeds choose other samples."""
    from itertools import combinations

    chosen = []
    for seed in (0, 1, 2):
        rows, softened = frozen(peers=2, seed=seed)
        for label in range(CLASSES):
            pairs = list(combinations(np.flatnonzero(label == Y), 2))
            means = np.array([softened[list(pair)].mean(0) for pair in pairs])
            distances = np.abs(means - rows[label]).max(-1)
            assert distances.min() < 1e-5
            chosen.append((seed, pairs[distances.argmin()]))
    assert len({tuple(pair for s, pair in chosen if s == seed) for seed in (0, 1, 2)}) == 3


def test_a_class_with_fewer_samples_than_peers_uses_all_of_them():
    rows, softened = frozen(peers=100)
    for label in range(CLASSES):
        np.testing.assert_allclose(rows[label], softened[label == Y].mean(0), atol=1e-5)


def test_a_class_without_samples_has_no_teacher():
    y = np.where(Y == 2, 1, Y)
    rows, _ = frozen(peers=None, y=y)
    np.testing.assert_array_equal(np.isnan(rows).all(-1), [False, False, True, False])


def test_one_hot_labels_give_the_same_teacher():
    np.testing.assert_array_equal(frozen(None)[0], frozen(None, y=np.eye(CLASSES)[Y])[0])


def test_sample_weights_apply_to_both_parts_of_the_loss():
    """mean(w_i (0.8 CE_i + 0.2 KL_i)) once the classes have teachers."""
    keras.utils.set_random_seed(0)
    student = linear_student()
    model = DUPS(student, mini_generation_epochs=1, temperature=2.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    weights = np.linspace(0, 3, SAMPLES).astype("float32")
    model.fit(X, Y, batch_size=BATCH, verbose=0)
    logs = model.fit(X, Y, sample_weight=weights, batch_size=SAMPLES, verbose=0).history
    kernel, bias = student.get_weights()
    logits = X @ kernel + bias
    peers = np.log([oracles.softmax(logits / 2.0)[label == Y].mean(0) for label in range(CLASSES)])
    kl, _ = oracles.kl(logits, peers[Y], 2.0, "forward")
    cross_entropy, _ = oracles.cross_entropy(logits, Y)
    expected = np.mean(weights * (0.8 * cross_entropy + 0.2 * kl))
    np.testing.assert_allclose(logs["loss"], [expected], rtol=1e-4)


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="peers=0"):
        DUPS(linear_student(), peers=0)
    with pytest.raises(ValueError, match="student_weight=-1"):
        DUPS(linear_student(), student_weight=-1)
