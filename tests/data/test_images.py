import numpy as np
import pytest

from keras_lstsd.data import ImageFiles, ImageRecords, image_folder
from tests.encoded_images import png, write_records

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def tree(tmp_path):
    """Two classes; written in another order than that of their names."""
    for name in ("dog/b.JPEG", "dog/a.png", "cat/2.png", "cat/10.png", "cat/note.txt", ".x/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_the_rows_of_a_folder_are_sorted_by_class_and_name(tree):
    images, labels, class_names = image_folder(tree)
    assert [images[row] for row in range(len(images))] == [
        b"cat/10.png",
        b"cat/2.png",
        b"dog/a.png",
        b"dog/b.JPEG",
    ]
    assert labels.tolist() == [0, 0, 1, 1]
    assert labels.dtype == np.int32
    assert class_names == ["cat", "dog"]
    assert images.name(2) == f"{tree}/dog/a.png"


def test_the_classes_of_another_split_count(tree):
    _, labels, class_names = image_folder(tree, ["ant", "cat", "dog"])
    assert labels.tolist() == [1, 1, 2, 2]
    assert class_names == ["ant", "cat", "dog"]
    with pytest.raises(ValueError, match=r"of unknown name or without images: \['dog'\]"):
        image_folder(tree, ["cat"])


def test_folders_without_images_are_rejected(tree):
    (tree / "empty").mkdir()
    with pytest.raises(ValueError, match=r"with 3 classes; .* without images: \['empty'\]"):
        image_folder(tree)
    with pytest.raises(ValueError, match=r"absent with 0 classes.*Expected: .*<class>/<image>"):
        image_folder(tree / "absent")


@pytest.fixture
def records(tmp_path):
    """Ten records in three files, the second one empty."""
    encoded = [png(number) for number in range(10)]
    labels = [7, 1, 3, 3, 1, 9, 1000, 2, 5, 1]
    parts = (slice(0, 4), slice(0, 0), slice(4, 10))
    files = [tmp_path / f"train-{number:05}-of-00003" for number in range(3)]
    for file, part in zip(files, parts, strict=True):
        write_records(file, encoded[part], labels[part])
    return files, encoded, labels


def read_by_tensorflow(files):
    """What TensorFlow's own reader of TFRecords and its parser find."""
    import tensorflow as tf

    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = [
        tf.io.parse_single_example(record, features)
        for record in tf.data.TFRecordDataset([str(file) for file in files])
    ]
    return [(row["image/encoded"].numpy(), int(row["image/class/label"].numpy())) for row in parsed]


def test_records_are_those_of_tensorflow_in_any_order(records):
    files, encoded, labels = records
    images = ImageRecords(files)
    assert len(images) == 10
    found = {row: (images[row], images.labels[row].item()) for row in reversed(range(10))}
    assert [found[row] for row in range(10)] == read_by_tensorflow(files)
    assert [found[row] for row in range(10)] == list(zip(encoded, labels, strict=True))
    assert images.name(3) == f"{files[0]}, record 3"
    assert images.name(4) == f"{files[2]}, record 0"
    with pytest.raises(IndexError):
        images[10]


def test_other_features_are_found_by_their_names(tmp_path):
    write_records(tmp_path / "file", [b"a", b"b"], [0, 4], "image", "label")
    images = ImageRecords([tmp_path / "file"], "image", "label")
    assert [*images] == [b"a", b"b"]
    assert images.labels.tolist() == [0, 4]


def test_a_restart_reads_the_cache_until_the_files_change(records, tmp_path, monkeypatch):
    files, encoded, labels = records
    cache = tmp_path / "records.npz"
    ImageRecords(files, cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(ImageRecords, "_scan", None)
        images = ImageRecords(files, cache=cache)
        assert [*images] == encoded
        assert images.labels.tolist() == labels
    write_records(files[1], [b"new"], [8])
    assert ImageRecords(files, cache=cache)[4] == b"new"
    assert ImageRecords(files, cache=cache).labels.tolist() == [*labels[:4], 8, *labels[4:]]


@pytest.mark.parametrize("lost", [1, 5, 60])
def test_a_truncated_file_is_named(records, lost):
    file = records[0][2]
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=rf"{file} with \d+ bytes, whose record 5 ends"):
        ImageRecords(records[0])


def test_a_record_of_another_kind_is_named(records):
    import tensorflow as tf

    file = records[0][1]
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(b"no example")
    with pytest.raises(ValueError, match=rf"'image/class/label'.*{file}, record 0"):
        ImageRecords(records[0])
    write_records(file, [b"a"], [1], "image", "label")
    with pytest.raises(ValueError, match=r"record 0, with the features \['image', 'label'\]"):
        ImageRecords(records[0])
    images = ImageRecords([file], label_key="label")
    with pytest.raises(ValueError, match=rf"no feature 'image/encoded'.*{file}, record 0"):
        images[0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        ImageFiles([tmp_path / "absent.png"])[0]
