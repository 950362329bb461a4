"""The hooks of a method, as its author writes them, and the faults in them."""

import numpy as np
import pytest
from keras import ops

from keras_lstsd import Distillation, Guidance
from tests.models import CLASSES, SAMPLES, X, Y, dense_student


def compiled(model, **options):
    model.compile("sgd", "sparse_categorical_crossentropy", **options)
    return model


class Recorded(Distillation):
    """Writes down the calls of its hooks."""

    logged = ("distillation_loss", "first_input")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []

    def guidance(self, step):
        self.calls.append(("guidance", step))
        first = step.inputs[:, 0]
        return Guidance(ops.zeros_like(first), logs={"first_input": first}, memory="memory")

    def record(self, step, guidance):
        self.calls.append(("record", guidance.memory))

    def after_update(self):
        self.calls.append(("after_update", None))


def test_hooks_of_a_step_are_called_in_order_with_the_step():
    model = compiled(Recorded(dense_student()), run_eagerly=True)
    weights = np.linspace(0.5, 2, SAMPLES).astype("float32")
    history = model.fit(
        X, Y, batch_size=SAMPLES, sample_weight=weights, shuffle=False, verbose=0
    ).history
    assert [name for name, _ in model.calls] == ["guidance", "record", "after_update"]
    assert model.calls[1][1] == "memory"
    step = model.calls[0][1]
    numpy = ops.convert_to_numpy
    np.testing.assert_array_equal(numpy(step.inputs), X)
    np.testing.assert_array_equal(numpy(step.y), Y)
    np.testing.assert_array_equal(numpy(step.sample_weight), weights)
    assert tuple(step.logits.shape) == (SAMPLES, CLASSES)
    assert step.mask is None
    assert step.mixing is None
    np.testing.assert_allclose(history["first_input"], [X[:, 0].mean()], rtol=1e-5)


class Faulty(Distillation):
    """Guidance as a method under development may return it."""

    logged = ("distillation_loss",)

    def __init__(self, student, made, name=None):
        super().__init__(student, name=name)
        self.made = made

    def guidance(self, step):
        return self.made(step.logits)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda z: Guidance(ops.mean(z)), r"one value per sample.*Received.*\(\).*Expected: shape"),
        (lambda z: Guidance(z), r"one value per sample.*Received.*Expected: shape \(batch,\)"),
        (lambda z: Guidance(z[:1, 0]), r"one value per sample.*Received.*Expected: shape \(batch"),
        (
            lambda z: Guidance(z[:, 0], logs={"teacher_coverage": z[:, 0]}),
            r"`Faulty.logged` must name.*Received: logged=\('distillation_loss',\).*coverage",
        ),
    ],
)
def test_guidance_of_another_shape_or_with_unnamed_logs_is_rejected(made, message):
    model = compiled(Faulty(dense_student(), made), jit_compile=False)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, batch_size=SAMPLES, verbose=0)


def test_a_name_in_logged_that_guidance_does_not_log_is_rejected():
    class Silent(Faulty):
        logged = ("distillation_loss", "teacher_coverage")

    model = compiled(
        Silent(dense_student(), lambda logits: Guidance(logits[:, 0])), jit_compile=False
    )
    with pytest.raises(ValueError, match=r"`Silent.logged` must name.*Received.*teacher_coverage"):
        model.fit(X, Y, verbose=0)


def test_an_argument_without_an_attribute_of_its_name_is_rejected_at_fit():
    class Renamed(Distillation):
        def __init__(self, student, weight=0.1, name=None):
            super().__init__(student, name=name)
            self.factor = weight

    with pytest.raises(AttributeError, match=r"Received: Renamed.*\['weight'\].*self.weight = wei"):
        compiled(Renamed(dense_student())).fit(X, Y, verbose=0)
