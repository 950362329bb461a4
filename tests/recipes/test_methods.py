import keras
import pytest

from recipes.methods import METHODS
from tests.settings import OFF, TINY


def test_each_method_has_settings_for_tests():
    assert METHODS.keys() == TINY.keys() == OFF.keys()


@pytest.mark.parametrize("name", METHODS)
def test_only_methods_with_an_index_get_the_number_of_samples(name):
    method = METHODS[name]
    layers = keras.layers.Dense(4), keras.layers.Dense(3)
    student = keras.Sequential([keras.Input((2,)), *layers])
    teacher = keras.models.clone_model(student)
    teacher = [teacher] if method.teacher == "anchors" else teacher
    model = method.wrap(student, 7, teacher=teacher, **method.settings(20))
    assert model.num_samples == (7 if model.needs_sample_index else None)
    indexed = ("LSTSD", "TemporalEnsembling", "PSKD", "ELR", "CRD")
    by_settings = name in ("stored_teacher", "crd_prokt", "dropping")
    assert model.needs_sample_index == (method.cls.__name__ in indexed or by_settings)
