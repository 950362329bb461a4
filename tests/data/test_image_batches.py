import itertools

import keras
import numpy as np
import pytest

from keras_lstsd import DUPS, LSTSD, KnowledgeDistillation
from keras_lstsd.data import ImageBatches, ImageFiles, image_batches
from keras_lstsd.data.order import mix
from tests.data.test_batches import assert_same_batches
from tests.encoded_images import jpeg, pixels, png

# It encodes the images of this module.
pytest.importorskip("tensorflow")

pytestmark = pytest.mark.tensorflow
IMAGES = [(png, jpeg)[number % 2](number, 30 + number, 41) for number in range(10)]
Y = np.arange(10, dtype="int32") % 3


def batches(images=IMAGES, **options):
    return ImageBatches(images, Y, **{"batch_size": 4, "seed": 1, "image_size": 8} | options)


def box_by_hand(draw, height, width):
    """PyTorch's `RandomResizedCrop.get_params`, one attempt after the other."""
    with np.errstate(over="ignore"):
        uniform = [float(mix(draw, number)) / 2**32 for number in range(41)]
    for attempt in range(10):
        share, ratio, top, left = uniform[attempt:40:10]
        area = height * width * (0.08 + 0.92 * share)
        ratio = np.exp(np.log(3 / 4) * (1 - ratio) + np.log(4 / 3) * ratio)
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 333), (20, 3000), (900, 7), (1, 1)]
)
def test_a_crop_is_the_first_attempt_that_fits(height, width):
    for draw in range(300):
        found = image_batches.random_crop(draw, height, width)
        assert found[:4] == box_by_hand(draw, height, width)


def test_crops_have_the_published_areas_ratios_and_flips():
    found = np.array([image_batches.random_crop(draw, 1000, 1000) for draw in range(4000)])
    top, left, height, width, flip = found.T
    share = height * width / 1e6
    assert 0.079 < share.min() < 0.09
    assert 0.9 < share.max() <= 1
    # Crops of up to 3/4 of the image fit with any ratio, so their areas are uniform.
    np.testing.assert_allclose((share[share < 0.75] < 0.25).mean(), 0.17 / 0.67, atol=0.02)
    ratio = width / height
    assert 0.745 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.34
    np.testing.assert_allclose(np.log(ratio).mean(), 0, atol=0.01)
    np.testing.assert_allclose(flip.mean(), 0.5, atol=0.03)
    for start, side in ((top, height), (left, width)):
        free = side < 900
        np.testing.assert_allclose((start[free] / (1000 - side[free])).mean(), 0.5, atol=0.02)


def test_a_training_image_is_its_crop_resized_and_flipped():
    import tensorflow as tf

    flips = set()
    for draw in range(6):
        top, left, height, width, flip = image_batches.random_crop(draw, 60, 50)
        crop = pixels(3, 60, 50)[top : top + height, left : left + width]
        expected = np.rint(tf.image.resize(crop, [16, 16], antialias=True))
        expected = expected[:, ::-1] if flip else expected
        found = image_batches.decode(png(3, 60, 50), 16, draw)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
        flips.add(flip)
    assert flips == {True, False}


@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 300), (20, 20), (6, 9)])
def test_a_test_image_is_the_centre_after_its_shorter_side_was_resized(height, width):
    """224 of 256, as 28 of 32."""
    import tensorflow as tf

    sides = [32, int(width * 32 / height)] if height <= width else [int(height * 32 / width), 32]
    resized = tf.image.resize(pixels(1, height, width), sides, antialias=True)
    top, left = (round((side - 28) / 2) for side in sides)
    expected = np.rint(resized[top : top + 28, left : left + 28])
    found = image_batches.decode(png(1, height, width), 28)
    # A pixel halfway between two integers may be rounded to either.
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_gray_images_have_three_equal_channels():
    import tensorflow as tf

    gray = tf.io.encode_jpeg(pixels(0)[..., :1]).numpy()
    found = image_batches.decode(gray, 8)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize(
    "options",
    [{}, {"num_classes": 3}, {"augment": False, "shuffle": False}, {"steps_per_epoch": 4}],
)
def test_a_dataset_yields_the_same_batches(options):
    made = batches(**options)
    data = made.tf_dataset()
    for epoch in (0, 1, 0):
        made.start_epoch(epoch)
        assert_same_batches(data, made)
    assert data.element_spec[0]["inputs"].shape[1:] == (8, 8, 3)


def test_images_follow_from_seed_epoch_and_index():
    made = batches(batch_size=10)
    with np.errstate(over="ignore"):
        draws = mix(1, 5, np.arange(10), 1) >> 1
    expected = [
        image_batches.decode(image, 8, draw) for image, draw in zip(IMAGES, draws, strict=True)
    ]
    seen = []
    # Whatever came before, and in batches of any size.
    for other in (made, batches(batch_size=3), made):
        for epoch in (2, 5):
            other.start_epoch(epoch)
            found = np.empty((10, 8, 8, 3), np.uint8)
            for step in range(len(other)):
                x, y = other[step]
                found[x["sample_index"]] = x["inputs"]
                np.testing.assert_array_equal(y, Y[x["sample_index"]])
            seen.append(found)
        np.testing.assert_array_equal(seen[-1], expected)
    assert (seen[0] != seen[1]).mean() > 0.5


def test_labels_become_one_hot_in_the_batch():
    y = np.array([2, 0, -1, 1, 2, 0, 1, 2, 0, 1])
    made = ImageBatches(IMAGES, y, batch_size=5, image_size=4, shuffle=False, num_classes=3)
    assert made.labels[0].shape == (10,)
    rows = made[0][1]
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("y", "received"),
    [
        (np.eye(10), r"float32 \(10, 10\)"),
        (np.arange(10), r"int64 \(10,\) from 0 to 9"),
        (np.arange(10) - 2, r"int64 \(10,\) from -2 to 7"),
    ],
)
def test_labels_that_are_no_class_numbers_are_rejected(y, received):
    with pytest.raises(ValueError, match=f"num_classes=9 and labels {received}"):
        ImageBatches(IMAGES, y, num_classes=9)


def test_decoded_images_are_rejected():
    with pytest.raises(ValueError, match="Received: a first image of type ndarray"):
        ImageBatches(np.zeros((10, 8, 8, 3)), Y)
    with pytest.raises(ValueError, match=r"\[\(9,\), \(10,\)\]"):
        ImageBatches(IMAGES[:9], Y)


def test_checks_read_the_images_and_decode_none(monkeypatch):
    monkeypatch.setattr(image_batches, "decode", None)
    made, other = batches(), batches(images=[*IMAGES[:9], IMAGES[0]])
    prints = [made, other, batches(image_size=9), batches(augment=False), batches(num_classes=3)]
    prints = [one.fingerprint() for one in prints]
    assert batches().fingerprint() == prints[0]
    for first, second in itertools.combinations(prints, 2):
        assert first != second
    before, after = made.sample_checksums(), other.sample_checksums()
    assert [row for row in before if before[row] != after[row]] == [9]
    assert made.distinct
    assert not batches(steps_per_epoch=2).distinct


def test_a_subclass_may_draw_a_sample_twice():
    class Twice(ImageBatches):
        def _pass_order(self, number):
            return np.zeros(10, np.int32)

    assert not Twice(IMAGES, Y).distinct


@pytest.mark.parametrize("broken", [b"", b"GIF", jpeg(1)[:200]])
def test_a_broken_image_is_named(broken, tmp_path):
    (tmp_path / "good.png").write_bytes(IMAGES[0])
    (tmp_path / "bad.jpg").write_bytes(broken)
    images = ImageFiles([tmp_path / "good.png", tmp_path / "bad.jpg"])
    made = ImageBatches(images, Y[:2], batch_size=2, image_size=8)
    with pytest.raises(ValueError, match=rf"bad\.jpg, {len(broken)} bytes"):
        made[0]
    model = LSTSD(network())
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(Exception, match=rf"bad\.jpg, {len(broken)} bytes.*Expected: an undamaged"):
        model.fit(made, verbose=0)
    listed = ImageBatches([IMAGES[0], broken], Y[:2], batch_size=2, image_size=8)
    with pytest.raises(ValueError, match=f"image 1, {len(broken)} bytes"):
        listed[0]


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 127.5, -1, dtype="float32"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def test_a_training_equals_one_on_the_same_arrays():
    """One step per epoch on all images, each epoch with its own crops."""
    made = batches(batch_size=10, num_classes=3)
    starts = []
    for source in ("encoded", "arrays"):
        keras.utils.set_random_seed(1)
        model = LSTSD(network(), mini_generation_epochs=1, top_k=2)
        model.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
        if source == "encoded":
            model.fit(made, epochs=3, verbose=0)
        for epoch in range(3) if source == "arrays" else ():
            made.start_epoch(epoch)
            x, y = made[0]
            inputs = {"inputs": x["inputs"], "sample_index": x["sample_index"]}
            model.fit(inputs, y, batch_size=10, epochs=1, verbose=0, shuffle=False)
        starts.append([model.student.get_weights(), np.asarray(model.pending.rows)])
    for first, second in zip(*starts, strict=True):
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), first, second
        )


def test_a_stored_teacher_sees_the_centres():
    teacher = network()
    options = {"stored": True, "num_samples": 10, "table_dtype": "float32"}
    model = KnowledgeDistillation(network(), teacher, **options)
    model.compile("sgd", "categorical_crossentropy")
    with pytest.warns(UserWarning, match="sees the inputs without augmentation"):
        model.fit(batches(num_classes=3), epochs=1, verbose=0)
    centres = np.stack([image_batches.decode(image, 8) for image in IMAGES])
    probabilities = teacher.predict(centres, verbose=0)
    rows = np.asarray(model.teacher_rows.rows)[:10]
    expected = keras.ops.log_softmax(np.log(probabilities) / model.temperature)
    np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_a_method_without_an_index_trains_on_class_numbers():
    model = DUPS(network(), mini_generation_epochs=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(batches(), epochs=3, verbose=0).history
    assert history["distillation_loss"][0] == 0
    assert history["distillation_loss"][2] > 0
