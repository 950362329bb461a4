"""Students with classes at tokens, pixels or labels, under every method.

A student that treats all positions equally trains as on a data set whose samples are the
positions. The formulas of the methods are tested there.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_lstsd
from recipes.methods import METHODS
from tests.models import NAMES, assert_same, made, rarely, slow

SAMPLES, POSITIONS, FEATURES, CLASSES, BATCH = 13, 6, 4, 3, 4
draw = np.random.default_rng(3)
X = draw.normal(size=(SAMPLES, POSITIONS, FEATURES)).astype("float32")
Y = draw.integers(0, CLASSES, (SAMPLES, POSITIONS))
# These compare the features of whole samples.
REJECTED = ("feature_matching", "crd")


def one_hot(y):
    return np.eye(CLASSES, dtype="float32")[y]


ONE_OR_MORE = (Y > 0).astype("float32")
# Shape of the positions, labels, last layers, loss.
KINDS = {
    "tokens": ((6,), Y, [layers.Dense(CLASSES)], "SparseCategoricalCrossentropy"),
    "pixels": ((2, 3), one_hot(Y), [layers.Dense(CLASSES)], "CategoricalCrossentropy"),
    "masks": ((2, 3), ONE_OR_MORE, [layers.Dense(1)], "BinaryCrossentropy"),
    "labels": ((6,), ONE_OR_MORE, [layers.Dense(1), layers.Reshape((6,))], "BinaryCrossentropy"),
}


def student(kind, flat=False):
    """A network that treats all positions equally; `flat`: for data whose samples are these."""
    shape, _, last, _ = KINDS[kind]
    last = [type(layer).from_config(layer.get_config()) for layer in last[: 1 if flat else None]]
    inputs = keras.Input((FEATURES,) if flat else (*shape, FEATURES))
    activation = "sigmoid" if last[0].units == 1 else "softmax"
    hidden = layers.Dense(5, activation="tanh", kernel_regularizer="l2")
    return keras.Sequential([inputs, hidden, *last, layers.Activation(activation)])


def data(kind, flat=False):
    shape, y, *_ = KINDS[kind]
    if flat:
        return X.reshape(-1, FEATURES), y.reshape(-1, *y.shape[2:])
    return X.reshape(SAMPLES, *shape, FEATURES), y.reshape(SAMPLES, *shape, *y.shape[2:])


def compiled(name, kind, flat=False, **options):
    keras.utils.set_random_seed(1)
    samples = SAMPLES * (POSITIONS if flat else 1)
    settings = {"top_k": 2} if name == "tolerant_teacher" else {}
    # The order of the labels of a multi-label student decides which peers come first.
    settings |= {"peers": None} if name == "dups" else {}
    model = made(name, student(kind, flat), samples, **settings)
    loss = getattr(keras.losses, KINDS[kind][-1])()
    model.compile(keras.optimizers.SGD(0.5), loss, **options)
    return model


def trained(name, kind, flat=False, epochs=5, weight=None, samples=SAMPLES, **options):
    model = compiled(name, kind, flat, **options)
    each = POSITIONS if flat else 1
    x, y = (part[: samples * each] for part in data(kind, flat))
    batch = BATCH * each
    history = model.fit(
        x, y, sample_weight=weight, batch_size=batch, epochs=epochs, shuffle=False, verbose=0
    )
    return model, history.history


EVERY = [name for name in NAMES if name not in REJECTED]
# The others follow simulations in `test_positions.py`, or differ from these in the formula.
CASES = [rarely(name, "tokens", by_default=("lstsd", "prokt")) for name in EVERY]
CASES += [("lstsd", "pixels"), ("lstsd", "masks"), ("prokt", "labels"), slow("rco", "labels")]
CASES += [slow("snapshot_distillation", "labels"), slow("single_teacher_lstsd", "labels")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_positions_are_taught_as_samples_are(name, kind):
    (model, logs), (flat, expected) = (trained(name, kind, flat) for flat in (False, True))
    assert_same(model.student, flat.student, atol=1e-5)
    assert logs.keys() == expected.keys()
    for log, values in expected.items():
        np.testing.assert_allclose(logs[log], values, atol=1e-5)
    for table, rows in flat.sample_tables.items():
        for found, known in zip(model.sample_tables[table].numpy(), rows.numpy(), strict=True):
            np.testing.assert_allclose(found, known, atol=1e-4)


@pytest.mark.parametrize(("kind", "each"), [("tokens", POSITIONS), ("labels", 1)])
def test_weights_of_tokens_and_of_samples_apply_to_the_guidance(kind, each):
    """Keras takes a weight for each token, and for each sample of a multi-label student."""
    weight = draw.random((SAMPLES, each))
    model, logs = trained("lstsd", kind, weight=weight if each > 1 else weight[:, 0])
    weight = np.broadcast_to(weight, (SAMPLES, POSITIONS)).ravel()
    flat, expected = trained("lstsd", kind, flat=True, weight=weight)
    assert_same(model.student, flat.student, atol=1e-5)
    np.testing.assert_allclose(logs["distillation_loss"], expected["distillation_loss"], atol=1e-5)


def test_a_sum_of_losses_is_a_sum_of_means_over_labels():
    models = []
    for reduction, rate in (("sum_over_batch_size", 0.5), ("sum", 0.5 / SAMPLES)):
        last = [layers.Dense(1), layers.Reshape((POSITIONS,)), layers.Activation("sigmoid")]
        model = made("lstsd", keras.Sequential([keras.Input((POSITIONS, FEATURES)), *last]))
        model.student.set_weights([np.linspace(1, -1, FEATURES)[:, None], np.zeros(1)])
        loss = keras.losses.BinaryCrossentropy(reduction=reduction)
        model.compile(keras.optimizers.SGD(rate), loss)
        model.fit(*data("labels"), batch_size=SAMPLES, epochs=5, verbose=0)
        models.append(model)
    assert_same(models[0].student, models[1].student, atol=1e-5)


@pytest.mark.parametrize("name", REJECTED)
def test_methods_of_features_are_rejected(name):
    with pytest.raises(ValueError, match="features of samples.*Received.*positions.*Expected"):
        trained(name, "tokens", epochs=1)


def test_a_memory_per_sample_needs_a_fixed_number_of_positions():
    inputs = keras.Input((None, FEATURES))
    network = keras.Model(inputs, layers.Dense(CLASSES)(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras_lstsd.LSTSD(network)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"fixed number.*\(None, None, 3\).*Expected"):
        model.fit(X, Y, verbose=0)
    # A teacher without such a memory takes any length.
    model = keras_lstsd.MeanTeacher(network)
    model.compile("sgd", loss)
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"]).all()


def test_too_many_rows_are_rejected():
    model = keras_lstsd.LSTSD(student("tokens"), num_samples=2**29)
    with pytest.raises(ValueError, match=r"too many rows.*536870912 samples x 6 positions"):
        model.make_memory()


def test_mixed_samples_are_rejected():
    images, labels = data("pixels")
    batches = keras_lstsd.data.SampleBatches(
        np.repeat(images, 2, axis=1), labels.reshape(SAMPLES, -1), layers=[layers.MixUp()]
    )
    inputs = keras.Input(images.shape[1:])
    network = keras.Sequential([keras.Input((4, 3, FEATURES)), layers.Flatten(), layers.Dense(18)])
    del inputs
    model = keras_lstsd.LSTSD(network)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="Mixed samples.*Received.*Expected"):
        model.fit(batches, verbose=0)


@pytest.mark.parametrize("name", ["lstsd", slow("prokt"), slow("snapshot_ensemble")])
@pytest.mark.parametrize("kind", ["tokens", "labels"])
def test_a_saved_model_continues_equally(tmp_path, name, kind):
    """Also where only the loss shows that logits are labels."""
    x, y = data(kind)
    model, _ = trained(name, kind, epochs=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.positions == model.positions
    for it in (model, loaded):
        it.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    assert_same(model, loaded)
    np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))


def test_a_saved_model_of_logits_keeps_its_labels(tmp_path):
    network = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(POSITIONS)])
    model = keras_lstsd.LSTSD(network, mini_generation_epochs=1)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(X[:, 0], Y > 0, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.positions == ((POSITIONS,), True)
    assert_same(model, loaded)


def test_an_ensemble_of_multi_label_students_averages_probabilities():
    students = [student("labels") for _ in range(3)]
    x, _ = data("labels")
    expected = np.mean([it.predict(x, verbose=0) for it in students], axis=0)
    ensemble = keras_lstsd.generations.Ensemble(students)
    np.testing.assert_allclose(ensemble.predict(x, verbose=0), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["tokens", "labels"])
def test_wrong_labels_of_positions_are_ranked(kind):
    x, y = data(kind)
    y = np.array(y, "int32")
    wrong = np.zeros(y.shape, bool)
    wrong[2, 1] = wrong[7, 4] = True
    x = np.where(y[..., None] > 0, 3.0, -3.0) + 0 * x
    x[..., 1] = np.where(y > 1, 3.0, -3.0)
    classes = 2 if kind == "labels" else CLASSES
    y = np.where(wrong, (y + 1) % classes, y)
    dynamics = keras_lstsd.TrainingDynamics(y, per_position=True)
    model = compiled("lstsd", kind)
    model.fit(x, y, batch_size=BATCH, epochs=12, verbose=0, callbacks=[dynamics])
    for ranking in (dynamics.suspicious_labels(), keras_lstsd.suspicious_labels(model, y)):
        assert ranking.shape == (SAMPLES * POSITIONS, 2)
        assert {tuple(place) for place in ranking[:2].tolist()} == {(2, 1), (7, 4)}
    assert dynamics.confidence.shape == y.shape
    columns = dynamics.columns()
    first = np.argmin(columns["confidence"])
    assert (columns["sample_index"][first], columns["position"][first]) in ((2, 1), (7, 4))


def test_dynamics_of_labels_of_another_shape_are_rejected():
    x, y = data("tokens")
    dynamics = keras_lstsd.TrainingDynamics(y[:, 0])
    with pytest.raises(ValueError, match=r"do not fit.*\(13,\).*per_position=True"):
        compiled("lstsd", "tokens").fit(x, y, verbose=0, callbacks=[dynamics])


@pytest.mark.tensorflow
def test_export_gives_probabilities_at_each_position(tmp_path):
    import tensorflow as tf

    model, _ = trained("lstsd", "labels", epochs=1)
    x, _ = data("labels")
    model.export(tmp_path / "labels", probabilities=True, verbose=False)
    loaded = tf.saved_model.load(tmp_path / "labels")
    np.testing.assert_allclose(loaded.serve(x), model.predict(x, verbose=0), atol=1e-6)
    with pytest.raises(ValueError, match="labels that are independent"):
        model.export(tmp_path / "names", class_names=["no", "yes"], verbose=False)
    model, _ = trained("lstsd", "tokens", epochs=1)
    names = ["noun", "verb", "other"]
    model.export(tmp_path / "tokens", probabilities=True, class_names=names, verbose=False)
    loaded = tf.saved_model.load(tmp_path / "tokens")
    served = loaded.serve(X)
    predicted = model.predict(X, verbose=0)
    np.testing.assert_allclose(served["probabilities"], predicted, atol=1e-6)
    found = np.char.decode(served["class_name"].numpy().astype("S"))
    np.testing.assert_array_equal(found, np.array(names)[predicted.argmax(-1)])


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["tokens", "labels"])
def test_two_replicas_train_as_one_device(kind, two_replicas):
    one, expected = trained("lstsd", kind, samples=12)
    with two_replicas.scope():
        two, logs = trained("lstsd", kind, samples=12)
    assert_same(one.student, two.student, atol=1e-5)
    np.testing.assert_allclose(logs["distillation_loss"], expected["distillation_loss"], atol=1e-5)


def test_every_method_is_in_a_list_of_this_file():
    assert {*EVERY, *REJECTED} == {*NAMES}
    assert {*NAMES} <= METHODS.keys()


def test_xla_gives_the_same_numbers():
    (plain, _), (xla, _) = (trained("lstsd", "tokens", jit_compile=jit) for jit in ("auto", True))
    assert_same(plain, xla, atol=1e-5)
    assert ops.ndim(plain.predict(X, verbose=0)) == 3
