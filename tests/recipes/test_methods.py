import keras
import pytest

import keras_lstsd
from recipes.methods import METHODS
from tests.settings import OFF, TINY


def test_each_method_has_settings_for_tests():
    assert METHODS.keys() == TINY.keys() == OFF.keys()


@pytest.mark.parametrize("name", METHODS)
def test_only_methods_with_an_index_get_the_number_of_samples(name):
    method = METHODS[name]
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model = method.wrap(student, 7, **method.settings(20))
    assert model.num_samples == (7 if model.needs_sample_index else None)
    indexed = (keras_lstsd.LSTSD, keras_lstsd.TemporalEnsembling)
    assert model.needs_sample_index == (method.cls in indexed)
