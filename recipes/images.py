"""Training on encoded images with networks of keras.applications, for recipes of large images."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_lstsd import ELR, LSTSD, PSKD, Distillation, SingleTeacherLSTSD, TemporalEnsembling
from keras_lstsd.backbones.layers import TORCH
from keras_lstsd.data import ImageBatches, ImageRecords, image_folder, tfds
from keras_lstsd.schedules import CyclicCosine
from recipes import metrics, runs, tables
from recipes.methods import METHODS, Method

NETWORKS = {
    "resnet50": keras.applications.ResNet50,
    "resnet101": keras.applications.ResNet101,
    "resnet152": keras.applications.ResNet152,
}
# Red, green and blue of ImageNet, for pixels from 0 to 255.
MEAN = 255 * np.array([0.485, 0.456, 0.406])
STD = 255 * np.array([0.229, 0.224, 0.225])
# What the weights of keras.applications expect: blue, green and red, not scaled.
BLUE_FIRST_MEAN = np.array([103.939, 116.779, 123.68])
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
# Epochs between two validations on the test images.
VALIDATION_FREQ = 10


class Split(NamedTuple):
    """Encoded images, and their classes as integers `[images]`."""

    images: Sequence[bytes]
    labels: np.ndarray


class Data(NamedTuple):
    """The two splits of a data set, its number of classes, and their names where known."""

    train: Split
    test: Split
    classes: int
    class_names: list[str] | None


def from_folders(folder: Path, test: str) -> Data:
    """The images of `folder/train/<class>/<image>` and `folder/<test>/<class>/<image>`."""
    images, labels, class_names = image_folder(folder / "train")
    held_out = image_folder(folder / test, class_names)
    return Data(Split(images, labels), Split(*held_out[:2]), len(class_names), class_names)


def from_records(folder: Path, cache: Path) -> Data:
    """The images of `train-*-of-*` and `validation-*-of-*`: TFRecords with labels from 1.

    Args:
        folder: the folder of the files.
        cache: a folder for the places of the records; a restart reads them there.

    Raises:
        SystemExit: when files are missing, or when a label is not from 1 to the number of classes.
    """
    cache.mkdir(parents=True, exist_ok=True)
    splits = []
    for name in ("train", "validation"):
        files = sorted(folder.glob(f"{name}-*-of-*"))
        expected = {int(file.name.rpartition("-of-")[2]) for file in files}
        if expected != {len(files)}:
            raise SystemExit(
                f"Files of TFRecords are missing. Received: {len(files)} files {name}-*-of-* in "
                f"{folder}. Expected: {sorted(expected) or 'at least one'}, as their names say."
            )
        images = ImageRecords(files, cache=cache / f"{name}.npz")
        splits.append(Split(images, images.labels - 1))
    train, test = splits
    classes = int(train.labels.max()) + 1
    for images, labels in splits:
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if wrong.size:
            raise SystemExit(
                "Labels must be those of ImageNet, whose first class is 1. Received: label "
                f"{labels[wrong[0]] + 1} in {images.name(int(wrong[0]))}. Expected: 1 to {classes}."
            )
    return Data(train, test, classes, None)


def from_tfds(name: str, train: str) -> Data:
    """A data set of tensorflow-datasets; `train` names its splits for training."""
    images, labels, class_names = tfds.encoded_images(name, train)
    held_out = tfds.encoded_images(name, "test")
    return Data(Split(images, labels), Split(*held_out[:2]), len(class_names), class_names)


def made_up(classes: int = 4, each: int = 8) -> Data:
    """Random JPEG images of a few classes."""
    import tensorflow as tf

    draw = np.random.default_rng(0)

    def split():
        labels = np.arange(classes * each, dtype=np.int32) % classes
        pixels = draw.integers(0, 256, (len(labels), 40, 48, 3), np.uint8)
        return Split([tf.io.encode_jpeg(image).numpy() for image in pixels], labels)

    return Data(split(), split(), classes, [f"class {number}" for number in range(classes)])


def student(network: str, classes: int, image_size: int, weights: str | None = None) -> keras.Model:
    """A network for images as uint8 `[batch, image_size, image_size, 3]`, which puts out logits.

    Each kernel has an L2 term whose gradient is `1e-4 * kernel`, as in the library's backbones;
    the momentum of the optimizer includes it, as in PyTorch.

    Args:
        network: its name in `NETWORKS`.
        classes: the number of classes.
        image_size: height and width of an image.
        weights: None for random weights; `"imagenet"` for those of keras.applications; or a
            .keras file of a classification network for pixels from 0 to 255, whose last dense
            layer is replaced. The file then decides the network and the size of images.

    Raises:
        SystemExit: for a file without a last dense layer, and one of another precision.
    """
    if weights not in (None, "imagenet"):
        return _with_weight_decay(_with_new_head(weights, classes))
    images = keras.Input((image_size, image_size, 3), dtype="uint8", name="images")
    mean, variance, pixels = MEAN, STD**2, ops.cast(images, "float32")
    if weights is not None:
        mean, variance = BLUE_FIRST_MEAN, np.ones(3)
        pixels = ops.flip(pixels, axis=-1)
    normalized = keras.layers.Normalization(
        mean=mean, variance=variance, dtype="float32", name="normalized"
    )(pixels)
    core = NETWORKS[network](
        include_top=False, weights=weights, input_tensor=normalized, pooling="avg"
    )
    return _with_weight_decay(keras.Model(images, _head(core.output, classes), name=network))


def _head(features: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    layer = keras.layers.Dense(
        classes, kernel_initializer=TORCH.clone(), dtype="float32", name="logits"
    )
    return layer(features)


def _with_new_head(file: str, classes: int) -> keras.Model:
    """The network of a file with a new last dense layer, and no softmax behind it."""
    network = keras.models.load_model(file, compile=False)
    after = (keras.layers.Activation, keras.layers.Softmax)
    layers = list(getattr(network, "layers", ()))
    while layers and isinstance(layers[-1], after):
        layers.pop()
    if not layers or not isinstance(layers[-1], keras.layers.Dense) or len(network.outputs) != 1:
        raise SystemExit(
            f"{file} has no dense layer to replace. Received: a {type(network).__name__} whose "
            f"last layer is {layers[-1] if layers else None}. Expected: a functional or Sequential "
            "network that ends in a dense layer, with or without a softmax."
        )
    policy = keras.config.dtype_policy()
    if policy.name != "float32" and all(layer.dtype_policy != policy for layer in layers):
        raise SystemExit(
            "--mixed_precision does not change the network of a file. "
            f"Received: {file}, with layers in {layers[-1].dtype_policy.name}. Expected: no "
            "--mixed_precision, or a file of a network that was made with it."
        )
    features = layers[-1].input
    return keras.Model(network.inputs[0], _head(features, classes), name=network.name)


def _with_weight_decay(network: keras.Model) -> keras.Model:
    """A copy of a network whose kernels have the L2 term, also in its saved file."""

    def copied(layer):
        config = layer.get_config()
        for name in config:
            if name.endswith(("kernel_regularizer", "wise_regularizer")):
                config[name] = keras.regularizers.L2(WEIGHT_DECAY / 2)
        return type(layer).from_config(config)

    copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy


def arguments(method: Method, settings: dict) -> dict[str, Any]:
    """A method's arguments: the paper's stages, and short rows in tables of samples x classes."""
    found = method.arguments | method.length(settings["epochs"])
    if method.cycles:
        found["mini_generation_epochs"] = -(-settings["epochs"] // settings["stages"])
    has_table = issubclass(method.cls, LSTSD | TemporalEnsembling | PSKD | ELR)
    if has_table and not issubclass(method.cls, SingleTeacherLSTSD):
        found = {"top_k": settings["top_k"]} | found
    return found


def train(
    run: dict, folder: Path, callbacks: list, data: Data, settings: dict, export: bool = False
) -> dict:
    """Trains one network with one method and one seed; the score is the top-1 accuracy in %.

    It writes the student to `student.keras` and, with `export`, a SavedModel to `serving`.

    Args:
        run: `"network"`, `"method"`, `"seed"`.
        folder: the folder of the run.
        callbacks: of `runs.train_all`.
        data: the images.
        settings: `"epochs"`, `"batch_size"`, `"learning_rate"`, `"stages"`, `"image_size"`,
            `"top_k"`, `"weights"`, `"mixed_precision"` and `"jit_compile"`.
        export: whether to export.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(run["seed"])
    keras.config.set_dtype_policy("mixed_bfloat16" if settings["mixed_precision"] else "float32")
    method, samples = METHODS[run["method"]], len(data.train.labels)
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    network = student(
        run["network"], data.classes, settings["image_size"], weights=settings["weights"]
    )
    steps = epochs * -(-samples // batch_size)
    model = runs.compiled(
        method.wrap(network, samples, **arguments(method, settings)),
        method,
        partial(keras.optimizers.SGD, momentum=MOMENTUM),
        settings["learning_rate"],
        num_samples=samples,
        epochs=epochs,
        batch_size=batch_size,
        decayed=CyclicCosine(settings["learning_rate"], steps, steps),
        jit_compile="auto" if settings["jit_compile"] is None else settings["jit_compile"],
    )
    batches = partial(
        ImageBatches,
        batch_size=batch_size,
        image_size=network.input_shape[1] or settings["image_size"],
        num_classes=data.classes,
    )
    test = batches(*data.test, augment=False, shuffle=False).tf_dataset()
    test = test.map(lambda x, y: (x["inputs"], y))
    model.fit(
        batches(*data.train),
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
        validation_data=test,
        validation_freq=min(VALIDATION_FREQ, epochs),
    )
    model.student.save(folder / "student.keras")
    if export:
        _export(model, folder / "serving", data.class_names)
    probabilities = runs.probabilities(model, test)
    top_5 = metrics.top_accuracy(data.test.labels, probabilities, 5)
    return metrics.measures(data.test.labels, probabilities) | {"top_5": 100 * top_5}


def present(
    results: runs.Results,
    key: str,
    titles: dict[str, str],
    methods: Sequence[str],
    papers: Callable[[str, dict], dict[str, float] | None],
    done: bool,
) -> None:
    """Writes and prints a table for each value of `key` in the runs, and reports where asked for.

    Args:
        results: the results.
        key: what the tables differ in, such as `"network"`.
        titles: the title of each value's table.
        methods: the methods, in the order of the rows.
        papers: `papers(value, settings)` returns the paper's numbers by method, or None.
        done: whether all runs have a result.
    """
    parts = []
    for value, title in titles.items():
        paper = papers(value, results.settings)
        tables.write_report(results, title, methods, paper, **{key: value})
        table = tables.method_table(results, methods, paper, **{key: value})
        parts.append(f"{title}.\n{tables.READING}\n\n{table}\n")
    tables.present(results, "table", "\n".join(parts), done)


def _export(model: Distillation, folder: Path, class_names: list[str] | None) -> None:
    options = {}
    if keras.backend.backend() == "tensorflow":
        options = {"probabilities": True, "class_names": class_names}
    model.export(folder, verbose=False, **options)
