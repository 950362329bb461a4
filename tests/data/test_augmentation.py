import keras
import numpy as np
import pytest
from keras import layers

import keras_lstsd
from keras_lstsd import DUPS, LSTSD, Distillation, Step
from keras_lstsd.data import CropAndFlip, SampleBatches
from keras_lstsd.data.augmentation import mixes, transform
from keras_lstsd.losses import log_softmax
from tests.models import CHOSEN

SAMPLES, SIZE, CLASSES = 30, 6, 3
draw = np.random.default_rng(0)
IMAGES = draw.integers(0, 256, (SAMPLES, SIZE, SIZE, 3), np.uint8)
LABELS = draw.integers(0, CLASSES, SAMPLES)
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]
CROP = CropAndFlip(pad=2, fill=(10, 20, 30))


def cropped(image, number, pad=2, fill=(10, 20, 30)):
    """One image, augmented in NumPy: pad, crop, flip."""
    padded = np.empty((SIZE + 2 * pad, SIZE + 2 * pad, 3), np.uint8)
    padded[:] = fill
    padded[pad : pad + SIZE, pad : pad + SIZE] = image
    span = 2 * pad + 1
    top, left, flip = number % span, number // span % span, number // span**2 % 2
    cut = padded[top : top + SIZE, left : left + SIZE]
    return cut[:, ::-1] if flip else cut


def batches(**options):
    return SampleBatches(IMAGES, LABELS, batch_size=8, seed=3, **options)


def student():
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ]
    )


def compiled(cls=LSTSD, loss="sparse", jit_compile="auto", **settings):
    keras.utils.set_random_seed(1)
    model = cls(student(), **settings)
    losses = {
        "sparse": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "one-hot": keras.losses.CategoricalCrossentropy(from_logits=True),
    }
    optimizer = keras.optimizers.SGD(0.1)
    model.compile(optimizer, losses[loss], metrics=["accuracy"], jit_compile=jit_compile)
    return model


@pytest.mark.parametrize("backend", ["numpy", "keras.ops"])
def test_each_draw_gives_one_crop_and_flip(backend):
    rows = np.repeat(np.arange(2, dtype="int32"), 50)
    draws = np.tile(np.arange(50, dtype="int32"), 2)
    numpy = np if backend == "numpy" else keras.ops
    images = CROP(CROP.pixels(IMAGES), rows, draws, SIZE, SIZE, numpy)
    expected = [cropped(IMAGES[row], number) for row, number in zip(rows, draws, strict=True)]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(images), expected)
    assert keras.backend.standardize_dtype(images.dtype) == "uint8"


def test_crops_and_flips_are_uniformly_distributed():
    data = SampleBatches(np.zeros((20_000, 1)), np.zeros(20_000), seed=0)
    for epoch in range(2):
        data.start_epoch(epoch)
        counts = np.bincount(data.epoch_draws(np.arange(20_000)) % 50, minlength=50)
        assert ((counts - 400) ** 2 / 400).sum() < 85.4  # chi-square, 49 degrees, p = 0.001


def test_the_augmentation_of_a_sample_is_pinned():
    """A saved run resumes under later versions with the same images."""
    data = batches(augment=CROP)
    assert data.epoch_draws(np.arange(4)).tolist() == PINNED
    data.start_epoch(1)
    assert (data.epoch_draws(np.arange(30)) != batches().epoch_draws(np.arange(30))).all()


PINNED = [745468456, 1532912687, 2077855093, 1918382946]


def of_epoch(data, epoch):
    """Images in the order of the samples, as the step receives them."""
    data.start_epoch(epoch)
    found = {}
    for step in range(len(data)):
        x, _ = data[step]
        if "draws" in x:
            model = compiled()
            model._device_stage.serve(data)
            x, *_ = model._device_stage.apply(keras.tree.map_structure(keras.ops.array, x))
        images = keras.ops.convert_to_numpy(x["inputs"])
        found |= dict(zip(np.array(x["sample_index"]).tolist(), images, strict=True))
    return np.stack([found[i] for i in range(SAMPLES)])


def test_images_are_the_same_on_host_and_device_and_epochs_differ():
    host, device = batches(augment=CROP), batches(augment=CROP, on_device=True)
    first = of_epoch(host, 0)
    np.testing.assert_array_equal(of_epoch(device, 0), first)
    np.testing.assert_array_equal(of_epoch(device, 4), of_epoch(host, 4))
    np.testing.assert_array_equal(of_epoch(host, 0), first)
    assert (of_epoch(host, 1) != first).any((1, 2, 3)).mean() > 0.8
    host.start_epoch(0)
    numbers = host.epoch_draws(np.arange(SAMPLES))
    np.testing.assert_array_equal(first[5], cropped(IMAGES[5], numbers[5]))


@pytest.mark.tensorflow
@pytest.mark.parametrize("on_device", [False, True])
def test_a_dataset_yields_the_same_images(on_device):
    data = batches(augment=CROP, on_device=on_device)
    dataset = data.tf_dataset()
    for epoch in (1, 0):
        data.start_epoch(epoch)
        for step, element in enumerate(dataset.as_numpy_iterator()):
            for a, b in zip(
                keras.tree.flatten(element), keras.tree.flatten(data[step]), strict=True
            ):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("jit_compile", [pytest.param("auto", marks=pytest.mark.slow), True])
def test_training_is_the_same_in_both_modes_bit_for_bit(jit_compile):
    histories, models = [], []
    for on_device in (False, True):
        model = compiled(jit_compile=jit_compile, mini_generation_epochs=1)
        data = batches(augment=CROP, on_device=on_device)
        validation = {"validation_data": (IMAGES, LABELS), "verbose": 0}
        histories.append(model.fit(data, epochs=3, **validation).history)
        models.append(model)
    assert histories[0] == histories[1]
    for first, second in zip(*(m.student.get_weights() for m in models), strict=True):
        np.testing.assert_array_equal(first, second)


def test_images_on_the_device_are_not_saved(tmp_path):
    model = compiled()
    model.fit(batches(on_device=True), verbose=0)
    model.save(tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size < 60_000
    again = keras.saving.load_model(tmp_path / "model.keras")
    histories = [m.fit(batches(on_device=True), verbose=0).history for m in (model, again)]
    assert histories[0] == histories[1]


def test_a_model_is_trained_on_other_batches_after_batches_on_the_device():
    model, plain = compiled(), compiled()
    for _ in range(2):
        model.fit(batches(augment=CROP, on_device=True), verbose=0)
        model.fit(batches(), verbose=0)
        plain.fit(batches(augment=CROP), verbose=0)
        plain.fit(batches(), verbose=0)
    for first, second in zip(model.student.get_weights(), plain.student.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_random_numbers_of_layers_follow_from_the_draws():
    noise = layers.RandomBrightness(0.9)
    images, draws = IMAGES[:8].astype("float32"), np.arange(8, dtype="int32")
    first, mixing = transform([noise], images, draws)
    noise(images, training=True)
    again, _ = transform([noise], images, draws)
    other, _ = transform([noise], images, draws + 1)
    first, again, other = map(keras.ops.convert_to_numpy, (first, again, other))
    assert mixing is None
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - images).max() > 10
    assert np.abs(first - other).max() > 10


# The box of CutMix has fractional coordinates: its weights are accurate to a few percent.
@pytest.mark.parametrize(
    ("layer", "error"), [(layers.MixUp(0.8), 1e-5), (layers.CutMix(0.8), 0.04)]
)
def test_the_mixing_contains_the_weights_of_the_samples_in_an_image(layer, error):
    # Image i has brightness 10^i, so the mean of a mixture shows its parts.
    images = np.ones((4, 64, 64, 1), "float32") * (10.0 ** np.arange(4))[:, None, None, None]
    mixed, mixing = map(
        keras.ops.convert_to_numpy, transform([layer], images, np.arange(4, dtype="int32"))
    )
    np.testing.assert_allclose(mixing.sum(1), 1, atol=1e-6)
    assert not np.allclose(mixing, np.eye(4))
    means = mixed.mean((1, 2, 3))
    np.testing.assert_allclose(means, mixing @ images[:, 0, 0, 0], atol=error * 1000)


class Halves(layers.MixUp):
    """Mixes each sample with the previous one, in equal parts."""

    def __call__(self, data, training):
        return {
            name: (value + keras.ops.roll(value, 1, axis=0)) / 2 for name, value in data.items()
        }


def test_teachers_and_labels_are_mixed_as_the_samples_are():
    """Computes an epoch: the teacher of a mixture is the mixture of the rows of its samples."""
    x = draw.normal(size=(6, 4)).astype("float32")
    y = np.eye(CLASSES, dtype="float32")[[0, 1, 2, 0, 1, 2]]
    weight = np.array([1, 1, 2, 1, 3, 1], "float32")
    linear = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)])
    model = LSTSD(linear, mini_generation_epochs=1, temperature=1.0, short_weight=0.0)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    data = SampleBatches(x, y, weight, batch_size=6, shuffle=False, layers=[Halves()])
    half = (np.eye(6) + np.roll(np.eye(6), 1, axis=0)) / 2
    p = np.exp(keras.ops.convert_to_numpy(log_softmax(linear(half.astype("float32") @ x))))
    history = model.fit(data, epochs=2, verbose=0).history
    rows, _ = model.long_term.numpy()
    np.testing.assert_allclose(rows, np.log(p), atol=1e-5)
    divergence = (p * (np.log(p) - np.log(half @ p))).sum(-1)
    np.testing.assert_allclose(history["long_term_loss"][1], divergence.mean(), atol=1e-5)
    assert history["teacher_coverage"] == [0, 1]
    compiled_loss = -(half @ y * np.log(p)).sum(-1)
    expected = ((compiled_loss + 2.4 * divergence) * (half @ weight)).mean()
    np.testing.assert_allclose(history["loss"][1], expected, rtol=1e-5)


def test_a_mixture_with_a_sample_without_a_teacher_has_no_teacher():
    model = LSTSD(student(), SAMPLES)
    model.make_memory()
    model.long_term.write([0, 1], np.log(np.full((2, CLASSES), 1 / CLASSES, "float32")))
    mixing = np.array([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 1, 0]], "float32")
    step = Step(None, None, np.array([0, 1, 2], "int32"), None, mixing=mixing)
    _, known = step.read(model.long_term)
    assert keras.ops.convert_to_numpy(known)[:, 0].tolist() == [True, False, True]


def test_dups_mixes_the_rows_of_the_classes():
    model = DUPS(student(), mini_generation_epochs=1)
    model.make_memory()
    q = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]], "float32")
    model.class_table.collect(np.array([0, 1]), q)
    model.class_table.rotate()
    shares = np.array([[0.25, 0.75, 0], [0.5, 0, 0.5], [1, 0, 0]], "float32")
    rows, known = map(keras.ops.convert_to_numpy, model.class_table.read(shares))
    assert known[:, 0].tolist() == [True, False, True]
    np.testing.assert_allclose(np.exp(rows[[0, 2]]), [0.25 * q[0] + 0.75 * q[1], q[0]], atol=1e-6)


ON_JAX = keras.backend.backend() == "jax"


TWO = {"mini_generation_epochs": 2}
# Class, settings, and whether a teacher guides the last epoch.
METHODS = {
    "vanilla": ("Distillation", TWO, False),
    "mean_teacher": ("MeanTeacher", {"momentum": 0.9}, True),
    "snapshot_ensemble": ("SnapshotEnsemble", TWO | {"keep": 3}, False),
    "temporal_ensembling": ("TemporalEnsembling", {}, True),
    "snapshot_distillation": ("SnapshotDistillation", TWO, True),
    "dups": ("DUPS", TWO | {"peers": 2}, True),
    "dups_of_all_peers": ("DUPS", TWO, True),
    "single_teacher_lstsd": ("SingleTeacherLSTSD", TWO, True),
    "lstsd_without_teachers": ("LSTSD", TWO | {"long_weight": 0.0, "short_weight": 0.0}, False),
    "lstsd_without_long": ("LSTSD", TWO | {"long_weight": 0.0}, True),
    "lstsd_without_short": ("LSTSD", TWO | {"short_weight": 0.0}, True),
    "lstsd": ("LSTSD", TWO, True),
}


@pytest.mark.parametrize(
    "name",
    ["lstsd"]
    if ON_JAX
    else [
        name if name in CHOSEN else pytest.param(name, marks=pytest.mark.slow) for name in METHODS
    ],
)
def test_every_method_trains_on_mixtures_as_with_augmentation_on_the_host(name):
    cls, settings, guides = METHODS[name]
    losses = []
    for on_device in (False, True):
        model = compiled(getattr(keras_lstsd, cls), "one-hot", **settings)
        data = SampleBatches(
            IMAGES,
            ONE_HOT,
            batch_size=8,
            augment=CROP,
            layers=[layers.MixUp(0.4)],
            on_device=on_device,
        )
        losses.append(model.fit(data, epochs=4, verbose=0).history)
    # On JAX the arithmetic of a layer is fused with the operations before it, and rounded
    # differently.
    for log in losses[0]:
        tolerance = 1e-3 if ON_JAX else 0
        np.testing.assert_allclose(losses[0][log], losses[1][log], tolerance, tolerance)
    assert ("teacher_coverage" in losses[0]) >= guides
    if "teacher_coverage" in losses[0]:
        assert losses[0]["teacher_coverage"][-1] == guides


def test_data_that_cannot_be_augmented_is_rejected():
    with pytest.raises(ValueError, match="Images are augmented as one array"):
        SampleBatches({"a": IMAGES}, LABELS, augment=CROP)
    with pytest.raises(ValueError, match="Received: inputs of type tuple"):
        SampleBatches([IMAGES, IMAGES], LABELS, on_device=True)
    with pytest.raises(ValueError, match="works on images in memory"):
        SampleBatches(IMAGES[..., 0], LABELS, on_device=True)
    with pytest.raises(ValueError, match="one-hot"):
        SampleBatches(IMAGES, LABELS, layers=[layers.MixUp()])
    with pytest.raises(ValueError, match="one-hot"):  # as keras.datasets gives labels
        SampleBatches(IMAGES, LABELS[:, None], layers=[layers.Pipeline([layers.CutMix()])])
    with pytest.raises(ValueError, match=r"`MixUp\(dtype='float32'\)`"):
        SampleBatches(IMAGES, ONE_HOT, layers=[layers.MixUp(dtype="mixed_bfloat16")])
    with pytest.raises(ValueError, match="pad=-1"):
        CropAndFlip(pad=-1)


def test_nested_layers_mix_and_weights_of_layers_are_kept():
    scale = layers.Normalization(mean=0.0, variance=4.0)
    scale.build(IMAGES.shape)
    draws = np.arange(len(IMAGES), dtype="int32")
    images = IMAGES.astype("float32")
    inner = layers.Pipeline([layers.MixUp(0.4)])
    assert mixes(inner)
    assert not mixes(layers.Pipeline([scale]))
    mixed, mixing = transform([scale, inner], images, draws)
    assert 0 < np.diag(mixing).min() < 1
    expected = np.einsum("ij,j...->i...", mixing, images / 2)
    np.testing.assert_allclose(mixed, expected, rtol=1e-4)


@pytest.mark.parametrize("options", [{"on_device": True}, {"layers": [layers.RandomFlip()]}])
def test_batches_that_the_step_augments_are_rejected_outside_fit(options):
    model = compiled(Distillation)
    data = SampleBatches(IMAGES, LABELS, batch_size=8, **options)
    for scored in (
        lambda: model.evaluate(data),
        lambda: model.predict(data),
        lambda: model.fit(data, validation_data=data),
    ):
        with pytest.raises(ValueError, match=r"validation_data=\(x_test, y_test\)"):
            scored()
    with pytest.raises(ValueError, match=r"`model.fit\(batches\)`"):
        model.train_on_batch(*data[0])


def test_evaluation_is_without_augmentation():
    model = compiled(Distillation)
    model.fit(batches(augment=CropAndFlip(pad=5), on_device=True), verbose=0)
    expected = model.evaluate(IMAGES, LABELS, verbose=0)
    plain = student()
    plain.set_weights(model.student.get_weights())
    plain.compile(loss=keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    np.testing.assert_allclose(plain.evaluate(IMAGES, LABELS, verbose=0), expected, rtol=1e-5)
