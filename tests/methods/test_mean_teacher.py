import keras
import numpy as np
import pytest

from keras_lstsd import MeanTeacher
from tests import oracles
from tests.methods.linear import FEATURES, SAMPLES, follow, linear_student, problem, weights_of
from tests.models import slow


@pytest.mark.parametrize("jit_compile", [slow(False), True])
@pytest.mark.parametrize(
    ("settings", "simulated"),
    [
        ({"kl": "reverse"}, {"direction": "reverse", "ramp": 5}),
        ({"kl": "forward", "ramp": 4}, {"direction": "forward", "ramp": 4}),
        ({"divergence": "mse", "ramp": 0}, {"direction": "reverse", "loss": "mse"}),
    ],
)
def test_training_follows_the_simulation(jit_compile, settings, simulated):
    common = {"weight": 3.0, "temperature": 2.0}
    follow(
        oracles.mean_teacher,
        MeanTeacher,
        lambda model: weights_of(model.average),
        jit_compile,
        simulated=common | simulated | {"average_momentum": 0.9},
        **common,
        **settings,
        momentum=0.9,
    )


def trained():
    x, y = problem()
    student = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(6),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(4),
        ]
    )
    model = MeanTeacher(student, momentum=0.8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.2), loss)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(student.get_weights())
    )
    # One step an epoch, so that the weights after every step are seen.
    model.fit(x, y, batch_size=SAMPLES, epochs=5, verbose=0, callbacks=[look])
    return model, x, y, seen


def test_the_average_covers_all_weights_and_statistics():
    model, _, _, seen = trained()
    average = seen[0]
    for step, weights in enumerate(seen[1:], start=1):
        share = min(1 - 1 / (step + 1), 0.8)
        average = [share * a + (1 - share) * w for a, w in zip(average, weights, strict=True)]
    for copy, expected in zip(model.average.copies, average, strict=True):
        np.testing.assert_allclose(copy.numpy(), expected, atol=1e-5)
    mean = model.student.layers[1].moving_mean
    assert any(np.allclose(copy.numpy(), average[4]) for copy in model.average.copies)
    assert np.abs(mean.numpy() - average[4]).max() > 1e-3


def test_evaluate_and_predict_use_the_teacher_on_request():
    model, x, y, _ = trained()
    own = model.student.get_weights()
    teacher = keras.models.clone_model(model.student)
    teacher.set_weights([copy.numpy() for copy in model.average.copies])
    np.testing.assert_allclose(
        model.predict(x, teacher=True, verbose=0), teacher.predict(x, verbose=0), atol=1e-6
    )
    np.testing.assert_array_equal(model.predict(x, verbose=0), model.student.predict(x, verbose=0))
    assert model.evaluate(x, y, teacher=True, verbose=0) != model.evaluate(x, y, verbose=0)
    for weight, value in zip(model.student.get_weights(), own, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.tensorflow
def test_the_teacher_is_exported(tmp_path):
    import tensorflow as tf

    model, x, _, _ = trained()
    model.export(tmp_path / "teacher", teacher=True, verbose=False)
    loaded = tf.saved_model.load(tmp_path / "teacher")
    np.testing.assert_allclose(
        loaded.serve(x), model.predict(x, teacher=True, verbose=0), atol=1e-6
    )


def test_invalid_arguments_are_rejected():
    for arguments, message in (
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"divergence": "l1"}, "divergence='l1'. Expected: 'kl' or 'mse'"),
        ({"ramp": -1}, "ramp=-1"),
        ({"temperature": -1}, "temperature=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            MeanTeacher(linear_student(), **arguments)
