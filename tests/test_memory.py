import keras
import numpy as np
import pytest

from keras_lstsd import CRD, DUPS, LSTSD, memory
from keras_lstsd.contrast import Contrast

X, Y = np.zeros((4, 2), "float32"), np.arange(4)


def model(cls, classes=1000, **settings):
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(classes)])
    made = cls(student, **settings)
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


@pytest.mark.parametrize(
    ("settings", "entry", "stored"),
    [({}, 4, 1000), ({"table_dtype": "float16"}, 2, 1000), ({"top_k": 8}, 6, 8)],
)
def test_tables_that_do_not_fit_are_rejected_before_they_are_made(
    monkeypatch, settings, entry, stored
):
    # Three tables of 999 samples and a spare row, as a multiple of 128.
    needed = 3 * 8 * 128 * stored * entry
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    made = model(LSTSD, num_samples=999, **settings)
    size = f"Received: {needed / 2**30:.1f} GiB of tables"
    with pytest.raises(ValueError, match=f"tables of LSTSD do not fit.*{size}") as error:
        made.fit(X, Y, verbose=0)
    assert not made.has_memory
    assert ("write `top_k=8`" in str(error.value)) == ("top_k" not in settings)
    assert ("float16" in str(error.value)) == ("table_dtype" not in settings)
    monkeypatch.setattr(memory, "available", lambda: needed)
    made.fit(X, Y, verbose=0)
    assert sum(table.mebibytes for table in made.sample_tables.values()) == needed / 2**20


def test_a_table_of_classes_counts(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2 * 4 * 50**2 - 1)
    with pytest.raises(ValueError, match="tables of DUPS do not fit.*write another method"):
        model(DUPS, classes=50).fit(X, Y, verbose=0)
    monkeypatch.setattr(memory, "available", lambda: 2 * 4 * 50**2)
    model(DUPS, classes=50).fit(X, Y, verbose=0)


def test_memories_of_features_count(monkeypatch):
    def network():
        layers = [keras.layers.Dense(3), keras.layers.Dense(5)]
        return keras.Sequential([keras.Input((2,)), *layers])

    # Two memories of 999 samples and a spare row, as a multiple of 128.
    needed = 2 * 8 * 128 * 128 * 4
    made = CRD(network(), network(), contrast=Contrast(negatives=7), num_samples=999)
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    with pytest.raises(ValueError, match="tables of CRD do not fit"):
        made.fit(X, Y, verbose=0)
    monkeypatch.setattr(memory, "available", lambda: needed)
    made.fit(X, Y, verbose=0)
    memories = made.contrast.student_memory, made.contrast.teacher_memory
    assert sum(table.mebibytes for table in memories) == needed / 2**20


def test_a_device_that_does_not_say_how_much_it_has_is_not_checked(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: None)
    model(LSTSD, num_samples=9, classes=5).fit(X, Y, verbose=0)


def test_the_memory_of_a_cpu_is_that_of_the_machine():
    assert 2**28 < memory.available() < 2**44


def test_8_entries_of_each_row_of_imagenet_take_less_than_200_megabytes():
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1000)])
    made = LSTSD(student, num_samples=1_281_167, top_k=8)
    tables = (made.short_term, made.long_term, made.pending)
    assert 180e6 < sum(table.bytes_for(made) for table in tables) < 200e6
