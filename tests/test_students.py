"""Students of all kinds: not built, subclassed, with LoRA, with labels of all forms."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import DUPS, LSTSD, MeanTeacher, SingleTeacherLSTSD, SnapshotDistillation
from tests.models import slow, wrapped

SAMPLES, CLASSES = 30, 3
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = draw.integers(0, CLASSES, SAMPLES)
FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model, loss="sparse_categorical_crossentropy", optimizer="sgd"):
    model.compile(optimizer, loss)
    return model


def test_a_student_that_is_not_built_is_built_by_fit():
    network = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(3)])
    model = LSTSD(network, SAMPLES, mini_generation_epochs=1)
    compiled(model, FROM_LOGITS).fit(X, Y, epochs=2, verbose=0)
    assert model.pending.numpy()[1].all()


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(CLASSES)

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_student_trains_with_from_logits():
    with pytest.raises(ValueError, match="pass `from_logits=True`"):
        compiled(LSTSD(Net(), SAMPLES)).fit(X, Y)
    model = LSTSD(Net(), SAMPLES, from_logits=True)
    compiled(model, FROM_LOGITS).fit(X, Y, verbose=0)
    assert model.pending.numpy()[1].all()
    network = Net()
    network(X)
    model = LSTSD(network, SAMPLES, from_logits=True)
    model.make_memory()
    # The rows are padded to a multiple of 128.
    assert model.pending.rows.shape == (128, CLASSES)


def test_a_subclassed_student_takes_a_dict():
    class Sum(Net):
        def call(self, inputs):
            return super().call(inputs["a"] + inputs["b"])

    model = LSTSD(Sum(), SAMPLES, from_logits=True)
    compiled(model, FROM_LOGITS).fit({"a": X, "b": X}, Y, verbose=0)
    assert model.pending.numpy()[1].all()


@pytest.mark.parametrize("samples", [2**20 // 12 - 1, None])
def test_the_memory_of_the_tables_is_printed_once(capsys, samples):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES, activation="softmax")])
    model = compiled(LSTSD(network, samples))
    model.fit(X, Y, epochs=2, verbose=2)
    model.fit(X, Y, verbose=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "MiB" in line]
    assert len(lines) == 1
    mebibytes = "0.0" if samples is None else "3.0"
    assert lines[0].endswith(f"x 3 values in 3 tables: {mebibytes} MiB.")


# === LoRA ===


def dense_student():
    keras.utils.set_random_seed(1)
    hidden, last = layers.Dense(8, "relu"), layers.Dense(CLASSES, "softmax")
    return keras.Sequential([keras.Input((4,)), hidden, last])


def fit(model):
    keras.utils.set_random_seed(2)
    compiled(model, optimizer="sgd")
    return model.fit(X, Y, epochs=2, shuffle=False, verbose=0)


@pytest.mark.parametrize("before_wrapping", [True, False])
def test_lora_before_the_first_fit_trains_as_in_plain_keras(before_wrapping):
    """A teacher of momentum 0 equals the student after each step."""

    def enable_lora(network):
        keras.utils.set_random_seed(3)
        network.layers[0].enable_lora(2)

    plain = dense_student()
    enable_lora(plain)
    fit(plain)
    network = dense_student()
    if before_wrapping:
        enable_lora(network)
    model = MeanTeacher(network, momentum=0.0, weight=0)
    if not before_wrapping:
        enable_lora(network)
    fit(model)
    expected = plain.predict(X, verbose=0)
    for found in (model.predict(X, verbose=0), model.predict(X, teacher=True, verbose=0)):
        np.testing.assert_allclose(found, expected, atol=1e-5)


SECOND_NETWORKS = [
    (MeanTeacher, {}),
    (SingleTeacherLSTSD, {"mini_generation_epochs": 1}),
    (SnapshotDistillation, {"mini_generation_epochs": 1}),
]


@pytest.mark.parametrize(("cls", "settings"), SECOND_NETWORKS)
def test_lora_after_the_first_fit_is_rejected_where_a_network_is_the_teacher(cls, settings):
    model = cls(dense_student(), **settings)
    fit(model)
    model.student.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="enable_lora.*Received: 6 weights.*Expected: 4"):
        fit(model)


def test_lora_after_the_first_fit_continues_where_rows_are_the_teacher():
    model = LSTSD(dense_student(), SAMPLES, mini_generation_epochs=1)
    fit(model)
    model.student.layers[0].enable_lora(2)
    assert fit(model).history["teacher_coverage"] == [1, 1]


# === Labels of all forms, in a training ===


def forms(classes, units):
    """The labels by form, and whether all of them are hard."""
    one_hot = np.eye(max(units, 2), dtype="float32")[classes]
    shares = 0.9 * one_hot + 0.1 / max(units, 2)
    if units == 1:
        return {
            "integers": classes,
            "column": classes[:, None].astype("float32"),
            "bool": classes.astype(bool),
            "soft": shares[:, 1],
            "soft column": shares[:, 1:],
        }
    return {"one-hot": one_hot, "soft": shares}


@pytest.mark.parametrize(
    ("units", "form"),
    [
        *((1, "column"), (1, "bool"), (1, "soft"), slow(1, "integers"), slow(1, "soft column")),
        *((3, "one-hot"), (3, "soft")),
    ],
)
def test_dups_teaches_the_mean_prediction_of_the_class_of_a_label(units, form):
    """Nothing is learned, so that all predictions are those of one network."""
    classes = Y % max(units, 2)
    keras.utils.set_random_seed(1)
    last = layers.Dense(units, activation="sigmoid" if units == 1 else "softmax")
    network = keras.Sequential([keras.Input((4,)), last])
    model = DUPS(network, mini_generation_epochs=1, temperature=1.0)
    loss = "binary_crossentropy" if units == 1 else "categorical_crossentropy"
    compiled(model, loss, keras.optimizers.SGD(0.0))
    logs = model.fit(X, forms(classes, units)[form], epochs=2, verbose=0).history
    p = network.predict(X, verbose=0)
    p = np.hstack([1 - p, p]) if units == 1 else p
    shares = np.eye(max(units, 2))[classes]
    q = shares @ (shares.T @ p / shares.sum(axis=0)[:, None])
    expected = 0.2 * np.mean(np.sum(q * np.log(q / p), axis=-1))
    np.testing.assert_allclose(logs["distillation_loss"][1], expected, rtol=1e-3)
    assert logs["teacher_coverage"] == [0, 1]


@pytest.mark.parametrize("form", [slow("integers"), "column", "bool", slow("soft"), "soft column"])
def test_a_data_set_with_labels_of_one_unit_trains_with_an_index(form):
    """The step reads the class of each label to detect a changed index."""

    class Indexed(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, step):
            x = {"inputs": X, "sample_index": np.arange(SAMPLES, dtype="int32")}
            return x, forms(Y % 2, 1)[form]

    network = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")])
    model = compiled(
        wrapped(LSTSD, network, SAMPLES, mini_generation_epochs=1), "binary_crossentropy"
    )
    history = model.fit(Indexed(), epochs=3, shuffle=False, verbose=0).history
    assert history["teacher_coverage"] == [0, 1, 1]
