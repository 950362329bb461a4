import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_lstsd.data import image_batches, tfds
from recipes import images, metrics
from recipes.methods import ALONE, METHODS
from tests.encoded_images import jpeg, png, write_records, write_tree

pytestmark = pytest.mark.tensorflow
SETTINGS = {
    "epochs": 5,
    "batch_size": 4,
    "learning_rate": 0.1,
    "stages": 5,
    "image_size": 8,
    "top_k": 2,
    "weights": None,
    "mixed_precision": False,
    "jit_compile": None,
}


def tiny(include_top, weights, input_tensor, pooling):
    """A network with the arguments of keras.applications."""
    assert (include_top, pooling) == (False, "avg")
    x = keras.layers.Conv2D(4, 3, name="conv")(input_tensor)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    inputs = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def means(include_top, weights, input_tensor, pooling):
    """A network whose features are the mean colours."""
    inputs = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(input_tensor))


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    monkeypatch.setitem(images.NETWORKS, "tiny", tiny)
    monkeypatch.setitem(images.NETWORKS, "means", means)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_students_take_pixels_as_their_weights_expect(weights):
    student = images.student("means", 5, 8, weights)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    colours = pixels.astype("float64")
    if weights is None:
        colours = (colours / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    else:
        colours = colours[..., ::-1] - [103.939, 116.779, 123.68]
    head = student.get_layer("logits")
    expected = colours.mean((1, 2)) @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(student.predict(pixels, verbose=0), expected, rtol=1e-4, atol=1e-4)
    assert student.input.dtype == "uint8"


@pytest.mark.parametrize("stored", [False, True])
def test_the_gradient_of_each_kernel_has_the_weight_decay(stored, tmp_path):
    import tensorflow as tf

    student = images.student("tiny", 3, 8)
    if stored:
        student.save(tmp_path / "student.keras")
        student = keras.models.load_model(tmp_path / "student.keras")
    with tf.GradientTape() as tape:
        loss = sum(student.losses)
    values = [weight.value for weight in student.trainable_variables]
    gradients = tape.gradient(loss, values, unconnected_gradients="zero")
    for weight, gradient in zip(student.trainable_variables, gradients, strict=True):
        decay = 1e-4 if "kernel" in weight.name else 0.0
        np.testing.assert_allclose(gradient, decay * weight.numpy(), rtol=1e-5)
    assert len(student.losses) == 3


@pytest.mark.slow
def test_the_weights_of_keras_applications_are_loaded(tmp_path, monkeypatch):
    """From a file as Keras downloads it; the downloaded values cannot be checked here."""
    import h5py
    from keras.src.applications import resnet
    from keras.src.legacy.saving import legacy_h5_format

    core = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg"
    )
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, core)
    monkeypatch.setattr(resnet.file_utils, "get_file", lambda *_, **__: tmp_path / "notop.h5")
    student = images.student("resnet50", 3, 32, "imagenet")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    x = keras.applications.resnet.preprocess_input(pixels.astype("float32"))
    expected = student.get_layer("logits")(core.predict(x, verbose=0))
    np.testing.assert_allclose(student.predict(pixels, verbose=0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ending", ["logits", "softmax", "layer"])
def test_the_last_dense_layer_of_a_file_is_replaced(ending, tmp_path):
    source = keras.Sequential(
        [
            keras.Input((8, 8, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(name="features"),
            keras.layers.Dense(4, "relu", name="hidden"),
            keras.layers.Dense(7, "softmax" if ending == "softmax" else None, name="old"),
            *([keras.layers.Softmax()] if ending == "layer" else []),
        ]
    )
    source.save(tmp_path / "source.keras")
    student = images.student("resnet50", 3, 224, str(tmp_path / "source.keras"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    features = pixels.mean((1, 2)) / 255
    for name, layer in (("hidden", source.get_layer("hidden")), ("logits", None)):
        layer = layer or student.get_layer(name)
        features = features @ layer.kernel.numpy() + layer.bias.numpy()
        features = np.maximum(features, 0) if name == "hidden" else features
    np.testing.assert_allclose(student.predict(pixels, verbose=0), features, rtol=1e-4, atol=1e-5)
    assert student.output_shape == (None, 3)
    # Hidden layer and head have weight decay.
    assert len(student.losses) == 2


def test_a_file_that_cannot_be_used_is_rejected(tmp_path):
    file = str(tmp_path / "source.keras")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")
    keras.Sequential([keras.Input((8, 8, 3)), pooled]).save(file)
    with pytest.raises(SystemExit, match=r"no dense layer to replace.*name=pooled"):
        images.student("resnet50", 3, 8, file)
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Dense(2)]).save(file)
    keras.config.set_dtype_policy("mixed_bfloat16")
    with pytest.raises(SystemExit, match=r"Received: .*source.keras, with layers in float32"):
        images.student("resnet50", 3, 8, file)


def test_methods_have_the_papers_stages_and_short_rows():
    found = {}
    for name in ALONE:
        settings = {"epochs": 160, "stages": 10, "top_k": 8}
        student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(9)])
        model = METHODS[name].wrap(student, 5, **images.arguments(METHODS[name], settings))
        found[name] = model.mini_generation_epochs, getattr(model, "top_k", None)
    assert found["dups"] == found["dups_plus"] == (16, None)
    assert found["lstsd"] == (6, 8)
    assert found["elr"][1] == found["ps_kd"][1] == found["temporal_ensembling"][1] == 8
    # Its K is another one.
    assert found["tolerant_teacher"][1] == 5
    settings = {"epochs": 90, "stages": 2, "top_k": None}
    for name in ("snapshot_distillation", "snapshot_ensemble"):
        assert images.arguments(METHODS[name], settings)["mini_generation_epochs"] == 45


@pytest.fixture
def records(tmp_path):
    """TFRecords as those of ImageNet: two files of each split, three classes from 1."""
    folder = tmp_path / "records"
    folder.mkdir()
    for split in ("train", "validation"):
        for number in range(2):
            encoded = [jpeg(4 * number + row) for row in range(4)]
            write_records(folder / f"{split}-0000{number}-of-00002", encoded, [1, 2, 3, 1 + number])
    return folder


def test_labels_of_records_count_from_0(records, tmp_path):
    data = images.from_records(records, tmp_path / "cache")
    assert data.train.labels.tolist() == [0, 1, 2, 0, 0, 1, 2, 1]
    assert data.classes == 3
    assert data.test.images[5] == jpeg(5)
    assert (tmp_path / "cache/train.npz").exists()


def test_missing_records_are_reported(records, tmp_path):
    (records / "validation-00001-of-00002").unlink()
    with pytest.raises(SystemExit, match=r"Received: 1 files validation-\*.*Expected: \[2\]"):
        images.from_records(records, tmp_path)
    (records / "validation-00000-of-00002").unlink()
    with pytest.raises(SystemExit, match=r"Received: 0 files .*Expected: at least one"):
        images.from_records(records, tmp_path)


@pytest.mark.parametrize("label", [0, 4])
def test_labels_outside_the_classes_are_reported(records, tmp_path, label):
    file = records / "validation-00001-of-00002"
    write_records(file, [jpeg(0), jpeg(1)], [1, label])
    match = f"label {label} in {file}, record 1. Expected: 1 to 3"
    with pytest.raises(SystemExit, match=re.escape(match)):
        images.from_records(records, tmp_path)


def test_folders_have_the_classes_of_the_training_images(tmp_path):
    write_tree(tmp_path / "train", classes=3, each=2)
    write_tree(tmp_path / "val", classes=2, each=1)
    data = images.from_folders(tmp_path, "val")
    assert data.class_names == ["class0", "class1", "class2"]
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "split", "classes"),
    [
        ("oxford_flowers102", "train+validation", 102),
        ("dtd", "train+validation", 47),
        ("caltech_birds2011", "train", 200),
    ],
)
def test_data_sets_of_tensorflow_datasets_are_not_decoded(name, split, classes):
    """In the test mode of that package, with its own builders and generated images."""
    testing = pytest.importorskip("tensorflow_datasets").testing
    with testing.mock_data(num_examples=5):
        encoded, labels, class_names = tfds.encoded_images(name, split)
        data = images.from_tfds(name, split)
    assert len(encoded) == len(labels) == 5
    assert image_batches.decode(encoded[0], 8).shape == (8, 8, 3)
    assert len(class_names) == data.classes == classes
    assert 0 <= labels.min() <= labels.max() < classes
    assert data.train.images == encoded


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_images_of_a_builder_keep_their_bytes_order_and_labels(tmp_path, monkeypatch):
    package = pytest.importorskip("tensorflow_datasets")

    class MadeUpFlowers(package.core.GeneratorBasedBuilder):
        VERSION = package.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": package.features.Image(),
                "label": package.features.ClassLabel(names=["rose", "lily", "iris"]),
            }
            return self.dataset_info_from_configs(features=package.features.FeaturesDict(features))

        def _split_generators(self, manager):
            sizes = {"train": range(6), "validation": range(6, 9), "test": range(9, 12)}
            return {split: self._generate_examples(rows) for split, rows in sizes.items()}

        def _generate_examples(self, rows):
            for row in rows:
                file = tmp_path / f"{row}.png"
                file.write_bytes(png(row))
                yield row, {"image": str(file), "label": row % 3}

    load = package.load
    monkeypatch.setattr(package, "load", lambda *a, **k: load(*a, data_dir=tmp_path, **k))
    data = images.from_tfds("made_up_flowers", "train+validation")
    again = images.from_tfds("made_up_flowers", "train+validation")
    rows = [[png(number) for number in range(12)].index(image) for image in data.train.images]
    assert sorted(rows) == list(range(9))
    assert data.train.labels.tolist() == [row % 3 for row in rows]
    assert data.class_names == ["rose", "lily", "iris"]
    assert again.train.images == data.train.images


class Seen(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.optimizer, self.trained = self.model.optimizer, self.model

    def on_epoch_end(self, epoch, logs=None):
        self.logs = logs


def test_a_run_has_the_settings_and_its_score_is_that_of_its_student(tmp_path):
    import tensorflow as tf

    data = images.made_up(classes=7, each=2)
    seen = Seen()
    run = {"network": "tiny", "method": "lstsd", "seed": 3}
    outcome = images.train(run, tmp_path, [seen], data, SETTINGS, export=True)
    assert seen.trained.top_k == 2
    steps = int(seen.optimizer.iterations)
    assert steps == 5 * 4
    np.testing.assert_allclose(seen.optimizer._learning_rate(0), 0.1)
    np.testing.assert_allclose(seen.optimizer._learning_rate((steps - 1) / 2), 0.05, rtol=1e-5)
    np.testing.assert_allclose(seen.optimizer._learning_rate(steps - 1), 0.0, atol=1e-6)
    assert (seen.optimizer.momentum, seen.optimizer.nesterov) == (0.9, False)
    student = keras.models.load_model(tmp_path / "student.keras")
    centres = np.stack([image_batches.decode(image, 8) for image in data.test.images])
    probabilities = ops.convert_to_numpy(ops.softmax(student.predict(centres, verbose=0)))
    order = probabilities.argsort(-1)[:, ::-1]
    labels = data.test.labels[:, None]
    assert outcome["score"] == pytest.approx(100 * (order[:, :1] == labels).mean())
    assert outcome["top_5"] == pytest.approx(100 * (order[:, :5] == labels).any(-1).mean())
    assert outcome["score"] < outcome["top_5"] < 100
    assert 100 * seen.logs["val_accuracy"] == pytest.approx(outcome["score"])
    loaded = tf.saved_model.load(tmp_path / "serving")
    served = loaded.serve(centres)
    np.testing.assert_allclose(served["probabilities"], probabilities, atol=1e-5)
    names = [name.decode() for name in served["class_name"].numpy()]
    assert names == [f"class {number}" for number in order[:, 0]]


def test_runs_of_one_seed_have_equal_bits_and_mixed_precision_is_used(tmp_path):
    data, weights = images.made_up(classes=3, each=4), []
    for number, precision in enumerate((False, False, True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = {"network": "tiny", "method": "label_smoothing", "seed": 3}
        settings = SETTINGS | {"epochs": 2, "mixed_precision": precision}
        seen = Seen()
        images.train(run, folder, [seen], data, settings)
        weights.append(seen.trained.student.get_weights())
        conv = seen.trained.student.get_layer("conv")
        assert conv.compute_dtype == ("bfloat16" if precision else "float32")
        assert seen.trained.student.output.dtype == "float32"
    for first, second in zip(*weights[:2], strict=True):
        np.testing.assert_array_equal(first, second)


def test_guesses_that_exceed_the_label_are_counted():
    probabilities = np.array([[0.1, 0.4, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]])
    found = [metrics.top_accuracy(np.array([3, 1, 2]), probabilities, k) for k in (1, 2, 3)]
    assert found == pytest.approx([2 / 3, 2 / 3, 1])
