import h5py
import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import RCO, Distillation, KnowledgeDistillation, MeanTeacher, ProKT, Step
from keras_lstsd.data import CropAndFlip, SampleBatches
from keras_lstsd.losses import kl_divergence
from keras_lstsd.snapshot import Snapshot
from recipes.methods import METHODS
from tests import models

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
numpy = keras.ops.convert_to_numpy


def student():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )


@pytest.fixture
def model():
    return Distillation(student())


@pytest.fixture
def snapshot(model):
    made = Snapshot()
    made.attach(model)
    return made


def test_a_snapshot_predicts_as_the_student_did(model, snapshot):
    network = model.student
    assert not bool(snapshot.known)
    before = network.predict(X, verbose=0)
    snapshot.take()
    assert bool(snapshot.known)
    network.set_weights([w + 1 for w in network.get_weights()])
    np.testing.assert_allclose(numpy(snapshot(X)), before, atol=1e-5)
    assert np.abs(network.predict(X, verbose=0) - before).max() > 0.1


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize(("units", "activation"), [(2, "softmax"), (1, "sigmoid"), (3, None)])
def test_a_confident_student_does_not_differ_from_a_copy_of_its_weights(units, activation, policy):
    """Both outputs are converted to logits in the same way."""
    network = keras.Sequential([keras.Input((3,)), layers.Dense(units, activation, dtype=policy)])
    network.set_weights([np.full((3, units), 30.0) * np.arange(1, units + 1), np.zeros(units)])
    model = MeanTeacher(network)
    model.make_memory()
    student = model.logits_of(network(X))
    teacher = model.average.predict(Step(X, None, None, student))
    np.testing.assert_array_equal(kl_divergence(student, teacher, 2.0), np.zeros(len(X)))


def test_a_prediction_is_float32_logits_in_inference_mode(model, snapshot):
    expected = numpy(model.student(X, training=False))
    found = snapshot.predict(Step(X, None, None, None))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(numpy(found), expected, atol=1e-6)


def test_predicting_changes_no_weight_statistic_or_seed(model, snapshot):
    network = model.student
    snapshot.take()
    before = [np.array(v.numpy()) for v in network.variables]
    snapshot(X)
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_first_average_is_a_copy_and_the_next_ones_warm_up(model, snapshot):
    network, seen = model.student, []
    for step in range(4):
        network.set_weights([np.full_like(w, 2.0**step) for w in network.get_weights()])
        snapshot.average(0.6)
        seen.append(float(snapshot.copies[0].numpy().flat[0]))
    # a_t = min(1 - 1/(t+1), 0.6) = 0, 1/2, 0.6, 0.6
    np.testing.assert_allclose(seen, [1, 1.5, 0.6 * 1.5 + 1.6, 0.6 * 2.5 + 3.2], rtol=1e-6)


def test_swapped_weights_are_restored_after_an_error(model, snapshot):
    network = model.student
    snapshot.take()
    own = [w + 1 for w in network.get_weights()]
    network.set_weights(own)

    def fail_inside():
        with snapshot.swapped_in():
            np.testing.assert_allclose(network.get_weights()[0], own[0] - 1, atol=1e-6)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    np.testing.assert_array_equal(network.get_weights()[0], own[0])


def test_a_student_whose_weights_changed_since_is_rejected(model, snapshot):
    model.student.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="Received: 10 weights .*Expected: 8, of shapes"):
        snapshot.take()


def test_a_snapshot_does_not_train_and_is_not_the_students(model, snapshot):
    assert snapshot.trainable_weights == []
    copies = {id(copy) for copy in snapshot.weights}
    assert not copies & {id(weight) for weight in model.student.weights}


def data(classes=2):
    return X, np.arange(len(X)) % classes


def taught(teacher, **arguments):
    keras.utils.set_random_seed(1)
    model = KnowledgeDistillation(student(), teacher, **arguments)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def test_a_given_teacher_keeps_its_weights_and_ignores_later_training():
    network = student()
    before = [weight.copy() for weight in network.get_weights()]
    model = taught(network)
    model.fit(*data(), epochs=1, verbose=0)
    for weight, value in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert all(weight.trainable for weight in network.trainable_weights)
    logits = numpy(model.teacher.predict(Step(X, None, None, None)))
    np.testing.assert_allclose(logits, network(X), atol=1e-5)
    network.set_weights([weight + 1 for weight in before])
    np.testing.assert_array_equal(model.teacher.predict(Step(X, None, None, None)), logits)


@pytest.mark.parametrize(("units", "activation"), [(2, "softmax"), (2, None), (1, "sigmoid")])
def test_a_teacher_may_end_in_logits_softmax_or_a_sigmoid(units, activation):
    network = keras.Sequential([keras.Input((3,)), layers.Dense(units, activation)])
    model = taught(network)
    model.make_memory()
    p = keras.ops.softmax(model.teacher.predict(Step(X, None, None, None)))
    outputs = numpy(network(X))
    if activation is None:
        outputs = numpy(keras.ops.softmax(outputs))
    if units == 1:
        outputs = np.concatenate([1 - outputs, outputs], axis=-1)
    np.testing.assert_allclose(p, outputs, atol=1e-6)


def test_a_teacher_of_other_classes_or_without_weights_is_rejected():
    network = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    for make in (KnowledgeDistillation, ProKT):
        with pytest.raises(ValueError, match="classes do not match .* 3 classes .* of 2"):
            make(student(), network).make_memory()
        with pytest.raises(ValueError, match="`teacher` must be a classifier that is built"):
            make(student(), keras.Sequential([layers.Dense(2)]))
        with pytest.raises(ValueError, match="`teacher` must be a classifier that is built"):
            make(student(), "resnet50")


def test_a_method_around_the_teacher_stands_for_its_student():
    network = student()
    assert taught(MeanTeacher(network)).teacher.network is network
    assert ProKT(student(), MeanTeacher(network)).teacher.network is network


@pytest.mark.parametrize("stored", [False, True])
def test_a_teacher_is_part_of_a_keras_file_but_not_of_a_backup(tmp_path, stored):
    network = keras.Sequential([keras.Input((3,)), layers.Dense(500), layers.Dense(2)])
    model = taught(network, stored=stored)
    model.fit(*data(), epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    assert (tmp_path / "model.weights.h5").stat().st_size < 500 * 5 * 4 + 60_000
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for weight, value in zip(
        loaded.teacher.network.get_weights(), network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, value)
    for each in (model, loaded):
        each.fit(*data(), epochs=2, verbose=0)
    for weight, value in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        assert not [name for name in _datasets(file) if "teacher/" in name]


def _datasets(file):
    names = []
    file.visititems(lambda name, item: isinstance(item, h5py.Dataset) and names.append(name))
    return names


def test_a_backup_of_another_teacher_is_rejected(tmp_path):
    def train(network, epochs):
        backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        taught(network).fit(*data(), epochs=epochs, verbose=0, callbacks=[backup])

    network = student()
    train(network, 1)
    network.set_weights([weight + 1 for weight in network.get_weights()])
    with pytest.raises(ValueError, match=r"another run. Received: teachers=.*Expected"):
        train(network, 2)


def test_the_teacher_is_asked_once_per_sample_without_augmentation():
    asked = []

    @keras.saving.register_keras_serializable("tests")
    def watch(x):
        asked.append(len(x))
        return x

    model = taught(student(), stored=True, teacher_inputs=watch)
    model.fit(*data(), batch_size=4, epochs=3, verbose=0)
    assert asked == [4, 2]
    images = np.zeros((6, 4, 4, 1), "uint8")
    network = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)])
    model = KnowledgeDistillation(network, keras.models.clone_model(network), stored=True)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = SampleBatches(images, data()[1], augment=CropAndFlip(pad=1))
    with pytest.warns(UserWarning, match="without augmentation"):
        model.fit(batches, verbose=0)


def test_the_teacher_of_prokt_is_exported_saved_and_trained_with_its_own_optimizer(tmp_path):
    keras.utils.set_random_seed(1)
    model = ProKT(student(), student())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, teacher_optimizer="adam")
    assert float(model.teacher.optimizer.learning_rate.numpy()) == pytest.approx(0.001)
    model.fit(*data(), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(*data(), epochs=2, verbose=0)
    for weight, value in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)
    copied = ProKT(student(), student())
    copied.compile(keras.optimizers.Adam(0.02), loss)
    assert float(copied.teacher.optimizer.learning_rate.numpy()) == pytest.approx(0.02)
    assert copied.teacher.optimizer is not copied.optimizer


@pytest.mark.tensorflow
def test_the_teacher_of_prokt_is_exported(tmp_path):
    import tensorflow as tf

    model = ProKT(student(), student())
    model.export(tmp_path / "teacher", teacher=True, verbose=False)
    served = tf.saved_model.load(str(tmp_path / "teacher"))
    np.testing.assert_allclose(served.serve(X), model.teacher.network(X), atol=1e-6)


def test_anchors_are_models_or_files(tmp_path):
    networks = [student(), student()]
    files = [tmp_path / f"{number}.weights.h5" for number in range(2)]
    for network, file in zip(networks, files, strict=True):
        network.save_weights(file)
    plain, own = student(), [w.copy() for w in student().get_weights()]
    plain.set_weights(own)
    for model in (RCO(student(), networks), RCO(student(), files, teacher=plain)):
        model.make_memory()
        for number, network in enumerate(networks):
            model.teacher.use(number)
            found = model.teacher.predict(Step(X, None, None, None))
            np.testing.assert_allclose(found, network(X), atol=1e-5)
    for weight, value in zip(plain.get_weights(), own, strict=True):
        np.testing.assert_array_equal(weight, value)
    with pytest.raises(ValueError, match="does not contain its network"):
        RCO(student(), files)
    with pytest.raises(ValueError, match="Expected: at least one"):
        RCO(student(), [])
    wide = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="one network at several times"):
        RCO(student(), [networks[0], wide])


@pytest.mark.parametrize(
    ("name", "trained"),
    [("prokt", True), models.slow("prokt", False), models.slow("knowledge_distillation", True)],
)
def test_a_compiled_teacher_teaches_as_one_that_is_not(name, trained):
    """Its metrics belong to another training; those of Keras may not be built yet."""
    found = []
    for is_compiled in (True, False):
        keras.utils.set_random_seed(1)
        student, teacher = models.dense_student(), models.dense_student()
        if is_compiled:
            teacher.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
            if trained:
                teacher.evaluate(models.X, models.Y, verbose=0)
        model = METHODS[name].cls(student, teacher)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        found.append(models.fit(model, epochs=2))
    assert found[0] == found[1]
