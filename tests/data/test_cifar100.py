import gzip
import io
import os
import pickle
import re
import struct
import sys
import tarfile
from typing import ClassVar

import numpy as np
import pytest

from keras_lstsd.data import cifar100

SIZES = {"train": 4, "test": 3}
BINARY, PYTHON = "cifar-100-binary", "cifar-100-python"


class Python2Pickler(pickle._Pickler):
    """Writes pickles of Python 2: strings are bytes, and NumPy has its old module names."""

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch: ClassVar = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def samples(split):
    """Images whose pixels, rows, columns and channels all differ, and their labels."""
    images = np.random.default_rng(SIZES[split]).integers(0, 256, (SIZES[split], 32, 32, 3))
    return images.astype(np.uint8), np.array([99, 0, 20, 7])[: SIZES[split]]


def content(form, split, order="C", **changes):
    """The bytes of an official file, written pixel by pixel as on the official page."""
    images, fine = samples(split)
    planes = [[image[:, :, channel].tobytes() for channel in range(3)] for image in images]
    rows = [b"".join(row) for row in planes]
    if form == BINARY:
        return b"".join(bytes([3, label]) + row for label, row in zip(fine, rows, strict=True))
    data = np.array([list(row) for row in rows], np.uint8, order=order)
    fields = {
        "filenames": ["a.png"] * len(fine),
        "batch_label": "training batch 1 of 1",
        "fine_labels": fine.tolist(),
        "coarse_labels": [3] * len(fine),
        "data": data,
    }
    return python2_pickle(fields | changes)


def member(form, split):
    return f"{form}/{split}.bin" if form == BINARY else f"{form}/{split}"


def archive(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    if "real_data" not in request.fixturenames:
        monkeypatch.setattr(cifar100, "SIZES", SIZES)


@pytest.fixture
def unpacked(tmp_path):
    for form in (BINARY, PYTHON):
        (tmp_path / form).mkdir()
        for split in SIZES:
            (tmp_path / member(form, split)).write_bytes(content(form, split))
    return tmp_path


def packed(tmp_path, form, prefix=""):
    files = {prefix + member(form, split): content(form, split) for split in SIZES}
    path = tmp_path / f"{form}.tar.gz"
    path.write_bytes(archive({f"{prefix}{form}/readme.txt": b"read me"} | files))
    return path


def assert_is(found, split):
    images, labels = samples(split)
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int32)
    assert found.images.flags.c_contiguous
    assert found.images.flags.writeable
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("form", [BINARY, PYTHON])
def test_both_versions_give_the_same_arrays(unpacked, tmp_path_factory, form, split):
    other = PYTHON if form == BINARY else BINARY
    for name in SIZES:
        (unpacked / member(other, name)).unlink()
    assert_is(cifar100.load(split, unpacked), split)
    assert_is(cifar100.load(split, str(unpacked / form)), split)
    for prefix in ("", "./"):
        path = packed(tmp_path_factory.mktemp("packed"), form, prefix)
        assert_is(cifar100.load(split, path.parent), split)
        assert_is(cifar100.load(split, path.rename(path.with_name("renamed"))), split)
        assert list(path.parent.iterdir()) == [path.with_name("renamed")]


def test_an_array_pickled_in_fortran_order_is_read(tmp_path):
    (tmp_path / "train").write_bytes(content(PYTHON, "train", order="F"))
    assert_is(cifar100.load("train", tmp_path), "train")


def test_the_pickles_of_these_tests_have_the_format_of_python_2():
    # An array that Python 2 pickled, with integers for booleans, as in the tests of NumPy.
    old = python2_pickle(np.array([7], np.uint8))
    assert old.startswith(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n")
    assert b"cnumpy\ndtype\n" in old
    assert b"_codecs" not in old
    np.testing.assert_array_equal(pickle.loads(old, encoding="bytes"), [7])
    written = content(PYTHON, "train")
    assert b"\x89\x88\x87" in written
    assert cifar100._unpickled(written.replace(b"\x89\x88\x87", b"K\x00K\x01\x87"))[0].any()


def test_the_official_folder_precedes_a_file_of_the_same_name(unpacked):
    (unpacked / "train.bin").write_bytes(b"tokens")
    assert_is(cifar100.load("train", unpacked), "train")


@pytest.mark.parametrize(
    ("damage", "received"),
    [
        (lambda data: b"", r"shape \(0, 3072\)"),
        (lambda data: data[:-1], "3 records of 3074 bytes, and 3073 bytes"),
        (lambda data: data[:-3074], r"shape \(3, 3072\)"),
        (lambda data: data + data[:3074], r"shape \(5, 3072\)"),
        (lambda data: data[:1] + b"\x64" + data[2:], "fine labels that are not 0 to 99"),
        (lambda data: b"\x14" + data[1:], "coarse labels that are not 0 to 19"),
    ],
)
def test_a_damaged_binary_file_is_rejected(unpacked, damage, received):
    path = unpacked / BINARY / "train.bin"
    path.write_bytes(damage(path.read_bytes()))
    match = rf"train\.bin is not.*official train file.*Received: .*{received}.*Expected: 4 images"
    with pytest.raises(ValueError, match=match):
        cifar100.load("train", unpacked)


PIXELS = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (b"", "EOFError"),
        (b"no pickle", "UnpicklingError"),
        (content(PYTHON, "train")[:-1], "EOFError"),
        (content(PYTHON, "train")[:9000], "UnpicklingError"),
        (content(PYTHON, "test"), r"shape \(3, 3072\)"),
        (python2_pickle([1, 2]), "TypeError"),
        (python2_pickle({"data": PIXELS, "labels": [1] * 4}), "KeyError.*fine_labels"),
        (content(PYTHON, "train", data=[[0] * 3072] * 4), "AttributeError"),
        (content(PYTHON, "train", data=PIXELS.astype(np.int8)), "type b'i1'"),
        (content(PYTHON, "train", data=PIXELS[:, 1:]), r"shape \(4, 3071\)"),
        (content(PYTHON, "train", fine_labels=[1, 2, 3]), r"fine labels of shape \(3,\)"),
        (content(PYTHON, "train", fine_labels=[1, 2, 3, 100]), "fine labels that are not"),
        (content(PYTHON, "train", fine_labels=[1, 2, 3, -1]), "fine labels that are not"),
        (content(PYTHON, "train", fine_labels=[1, 2, 3, 2**32]), "fine labels that are not"),
        (content(PYTHON, "train", coarse_labels=[1, 2, 3, 20]), "coarse labels that are not"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_pickle_is_rejected(tmp_path, data, received):
    (tmp_path / "train").write_bytes(data)
    match = rf"train is not.*official train file.*Received: .*{received}.*Expected: 4 images"
    with pytest.raises(ValueError, match=match):
        cifar100.load("train", tmp_path)


class Malicious:
    """Creates a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    "attack",
    [
        pickle.dumps(Malicious(), protocol=2),
        pickle.dumps(Malicious(), protocol=4),
        b"cbuiltins\nexec\n(S'import os; os.mkdir(\"harm\")'\ntR.",
        b"(S'harm'\niposix\nmkdir\n.",
    ],
    ids=["reduce", "stack_global", "exec", "inst"],
)
def test_code_in_a_pickle_is_not_executed(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    pickle.loads(attack)
    (tmp_path / "harm").rmdir()  # The attack works with pickle itself.
    (tmp_path / "train").write_bytes(attack)
    with pytest.raises(ValueError, match=r"the pickle asks for \w+\.(mkdir|exec)"):
        cifar100.load("train", tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["numpy\nload", "numpy.core.multiarray\nscalar", "os\nsystem"])
def test_names_other_than_those_of_an_array_are_rejected(name):
    with pytest.raises(pickle.UnpicklingError, match="asks for"):
        cifar100._unpickled(f"c{name}\n.".encode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "damaged or not a tar.gz"),
        (lambda data: b"something else", "damaged or not a tar.gz"),
        (lambda data: data[: len(data) // 2], "damaged or not a tar.gz"),
        (lambda data: data[:-1], "damaged or not a tar.gz"),
        (lambda data: data + data[:10] + b"\xff", "damaged or not a tar.gz.*block type"),
        (lambda data: data[:-8] + b"\0\0\0\0" + data[-4:], "damaged or not a tar.gz.*CRC"),
        (lambda data: gzip.compress(b"no archive" * 100), "damaged or not a tar.gz"),
        (lambda data: gzip.compress(gzip.decompress(data)[:9000]), "damaged or not a tar.gz"),
        (lambda data: archive({"train.bin": b""}), "binary/train.bin or cifar-100-python/train"),
        (lambda data: archive({f"{PYTHON}/train/": b""}), "binary/train.bin or"),
        (lambda data: archive({}), "binary/train.bin or cifar-100-python/train"),
        (lambda data: archive({"cifar-100-binary/train.bin": b"a"}), "train.bin is not.*1 bytes"),
    ],
)
def test_a_damaged_archive_is_rejected(tmp_path, damage, message):
    path = packed(tmp_path, BINARY)
    path.write_bytes(damage(path.read_bytes()))
    for data_dir in (tmp_path, path):
        with pytest.raises(ValueError, match=rf"(?s)cifar-100-binary\.tar\.gz.*{message}"):
            cifar100.load("train", data_dir)


@pytest.mark.parametrize("layer", ["gzip", "tar"])
def test_an_archive_with_random_damage_is_rejected_or_read(tmp_path, layer):
    path, draw = packed(tmp_path, BINARY), np.random.default_rng(0)
    whole = path.read_bytes() if layer == "gzip" else gzip.decompress(path.read_bytes())
    errors = []
    for _ in range(300):
        damaged = bytearray(whole)
        # Headers of the first members are in the first blocks.
        for place in draw.integers(0, min(len(whole), 4096), 3):
            damaged[place] ^= 1 << draw.integers(8)
        data = bytes(damaged)
        path.write_bytes(data if layer == "gzip" else gzip.compress(data, 1))
        try:
            found = cifar100.load("train", path)
        except ValueError as error:
            errors.append(str(error))
        else:
            # Only gzip has a checksum of the pixels.
            assert found.images.shape == (4, 32, 32, 3)
            if layer == "gzip":
                assert_is(found, "train")
    assert len(errors) > 60
    pattern = re.compile(r"(?s)cifar-100-binary\.tar\.gz.*Received.*Expected.*download it again")
    assert all(pattern.search(error) for error in errors)


@pytest.mark.parametrize("name", ["train", "train.bin"])
@pytest.mark.parametrize(
    "data",
    [b"", b"\xef\xbb\xbf", "header\n".encode("utf-16"), b"header\n", b"\0" * 3074],
    ids=["empty", "BOM", "UTF-16", "header", "one record"],
)
def test_files_of_other_contents_are_rejected(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"(?s){name} is not.*Received.*Expected.*again"):
        cifar100.load("train", tmp_path)


def test_an_unreadable_archive_raises_its_own_error(tmp_path, monkeypatch):
    path = packed(tmp_path, BINARY)

    def no_access(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "open", no_access)
    with pytest.raises(PermissionError):
        cifar100.load("train", path)


def test_missing_files_splits_and_packages_are_named(tmp_path, monkeypatch):
    expected = ("binary/test.bin", "python/test", "binary.tar.gz", "python.tar.gz")
    match = ".*cifar-100-".join(("test split is missing", *expected))
    for data_dir in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=match):
            cifar100.load("test", data_dir)
    with pytest.raises(ValueError, match="split='dev'"):
        cifar100.load("dev", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"cifar100.*data_dir.*keras-lstsd\[data\]"):
        cifar100.load("train")


def test_tensorflow_datasets_are_read_in_file_order(monkeypatch):
    asked = []

    class Datasets:
        @staticmethod
        def load(name, split, shuffle_files):
            asked.append((name, split, shuffle_files))
            return [
                {"id": b"x", "image": image, "label": label, "coarse_label": 3}
                for image, label in zip(*samples(split), strict=True)
            ]

        @staticmethod
        def as_numpy(dataset):
            return iter(dataset)

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", Datasets)
    assert_is(cifar100.load("test"), "test")
    assert asked == [("cifar100", "test", False)]


def test_class_names_are_in_alphabetical_order():
    assert list(cifar100.FINE_LABELS) == sorted(set(cifar100.FINE_LABELS))
    assert len(cifar100.FINE_LABELS) == cifar100.NUM_CLASSES == 100


def test_the_real_files_have_their_known_contents(real_data):
    names = (real_data / BINARY / "fine_label_names.txt").read_text().split()
    assert list(cifar100.FINE_LABELS) == names
    images, labels = cifar100.load("train", real_data)
    assert images.shape == (50_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(labels), np.full(100, 500))
    levels = np.arange(256)
    for channel in range(3):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = share @ levels
        assert cifar100.MEAN[channel] == pytest.approx(mean, abs=1e-5)
        assert cifar100.STD[channel] == pytest.approx(
            np.sqrt(share @ (levels - mean) ** 2), abs=1e-5
        )
    images, labels = cifar100.load("test", real_data)
    assert images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(labels), np.full(100, 100))
