import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.distillation import FeatureDistillation, LogitsDistillation

from keras_lstsd import FeatureMatching
from tests.methods.linear import (
    BATCH,
    CLASSES,
    EPOCHS,
    FEATURES,
    RATE,
    SAMPLES,
    Given,
    irregular_batches,
    problem,
)
from tests.models import slow
from tests.oracles.feature_matching import feature_matching

X, Y = problem()


def network(width, activation=None, seed=0):
    """Two dense layers, the first one inside a model of its own."""
    keras.utils.set_random_seed(seed)
    inner = keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(width, activation=activation, name="hidden")],
        name="body",
    )
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(inner(inputs)))


HINT = FeatureDistillation("mse", "body/hidden", "body/hidden")


def compiled(model, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**({"optimizer": keras.optimizers.SGD(RATE), "loss": loss} | options))
    return model


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
@pytest.mark.parametrize("divergence", ["kl_divergence", keras.losses.KLDivergence()])
def test_training_follows_the_simulation(jit_compile, divergence):
    """A narrow student with a regressor; the default divergence of Keras is one of softmaxes."""
    student, teacher = network(3), network(6, seed=1)
    losses = [HINT, LogitsDistillation(temperature=3.0, loss=divergence)]
    model = FeatureMatching(student, teacher, losses, distillation_loss_weights=[0.4, 0.2])
    compiled(model, jit_compile=jit_compile)
    model.make_memory()
    dense = model.pairs[0].dense
    arguments = (student.get_weights(), teacher.get_weights(), dense.get_weights())
    batches = irregular_batches()
    expected = feature_matching(X, Y, batches, *arguments, RATE, 0.4, 0.2, 3.0)
    data = Given(X, Y, batches)
    for epoch, oracle in enumerate(expected):
        data.epoch = epoch
        logs = model.fit(data, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0)
        for name, value in oracle.logs.items():
            np.testing.assert_allclose(logs.history[name], [value], atol=1e-5, err_msg=name)
        found = student.get_weights() + dense.get_weights()
        wanted = [oracle.kernel, oracle.bias, *oracle.memory.values()]
        for weight, value in zip(found, wanted, strict=True):
            np.testing.assert_allclose(weight, value, atol=1e-5)
    assert len(expected) == EPOCHS
    assert expected[0].logs["distillation_loss"] > 0.1


# On JAX an eager step is traced as well, so its features cannot be looked at.
@pytest.mark.tensorflow
def test_features_are_those_of_a_separate_model_and_the_student_runs_once():
    calls = []

    @keras.saving.register_keras_serializable("tests")
    class Counted(layers.Dense):
        def call(self, inputs, training=None):
            calls.append(training)
            return super().call(inputs)

    class Seen(FeatureMatching):
        def guidance(self, step):
            self.features = dict(step.features)
            return super().guidance(step)

    student = keras.Sequential(
        [keras.Input((FEATURES,)), Counted(6, activation="relu", name="hidden")]
    )
    student.add(layers.Dense(CLASSES))
    loss = FeatureDistillation("mse", "body/hidden", "hidden")
    model = compiled(Seen(student, network(6, seed=1), loss), run_eagerly=True)
    features = keras.Model(student.inputs[0], student.get_layer("hidden").output)(X)
    model.make_memory()
    calls.clear()
    model.fit(X, Y, batch_size=SAMPLES, shuffle=False, verbose=0)
    assert calls == [True]
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model.features["hidden"]), ops.convert_to_numpy(features)
    )


def test_sample_weights_weigh_the_features_and_a_weight_of_0_is_plain_training():
    """Weights of 0 and 1 train as the samples of weight 1 alone."""
    chosen = np.arange(SAMPLES) % 2 == 0
    results = []
    for x, y, weights in (
        (X, Y, chosen.astype("float32")),
        (X[chosen], Y[chosen], np.full(chosen.sum(), chosen.mean(), "float32")),
    ):
        student = network(6)
        model = compiled(FeatureMatching(student, network(6, seed=1), [HINT]))
        model.fit(x, y, sample_weight=weights, batch_size=SAMPLES, epochs=3, verbose=0)
        results.append(student.get_weights())
    # The mean over 23 samples, 12 of which have weight 1, is 12/23 of the mean over these 12.
    for first, second in zip(*results, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    plain, off = network(3), network(3)
    compiled(plain).fit(X, Y, batch_size=SAMPLES, epochs=3, shuffle=False, verbose=0)
    model = compiled(FeatureMatching(off, network(6, seed=1), [HINT], [0.0]))
    model.fit(X, Y, batch_size=SAMPLES, epochs=3, shuffle=False, verbose=0)
    for first, second in zip(plain.get_weights(), off.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_students_activity_regularizer_survives_the_taps():
    losses = []
    for teacher in (None, network(4, seed=1)):
        student = network(4)
        student.get_layer("body").get_layer("hidden").activity_regularizer = keras.regularizers.L2()
        model = FeatureMatching(student, teacher, [HINT], [1e-30]) if teacher else student
        compiled(model)
        history = model.fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0).history
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_a_saved_model_continues_equally(tmp_path):
    student, teacher = network(3, "relu"), network(6, "relu", seed=1)
    model = compiled(FeatureMatching(student, teacher, [HINT]))
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for it in (model, loaded):
        it.fit(X, Y, epochs=1, verbose=0)
    for first, second in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(model.predict(X, verbose=0), loaded.student.predict(X, verbose=0))


class Own(LogitsDistillation):
    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return ops.mean((teacher_outputs - student_outputs) ** 2)


def test_a_users_own_loss_is_added_and_rejects_sample_weights():
    student, teacher = network(3), network(6, seed=1)
    expected = np.mean((student.predict(X, verbose=0) - teacher.predict(X, verbose=0)) ** 2)
    model = compiled(FeatureMatching(student, teacher, Own(), [2.0]))
    logs = model.fit(X, Y, batch_size=SAMPLES, verbose=0).history
    np.testing.assert_allclose(logs["distillation_loss"], [2 * expected], rtol=1e-5)
    with pytest.raises(ValueError, match=r"one value for a batch.*Received: Own with sample wei"):
        model.fit(X, Y, sample_weight=np.ones(SAMPLES), verbose=0)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = layers.Dense(3, name="hidden"), layers.Dense(CLASSES)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, t: (s, t, []), r"one weight for each loss.*Received: 0 weights for 0 losses"),
        (lambda s, t: (s, t, [HINT], [1.0, 2.0]), r"Received: 2 weights for 1 losses"),
        (lambda s, t: (s, t, [HINT], [-1.0]), r"distillation_loss_weights=-1.0"),
        (lambda s, t: (s, t, ["mse"]), r"must be losses of `keras.distillation`.*Received: 'mse'"),
        (
            lambda s, t: (s, t, [FeatureDistillation(["mse", "mse"])]),
            r"for one output. Received.*Expected: for example",
        ),
        (
            lambda s, t: (s, t, [FeatureDistillation("mse", "hidden", "body/hidden")]),
            r"has no such layers. Received: \['hidden'\].*Expected: names among.*'body'",
        ),
        (
            lambda s, t: (s, t, [FeatureDistillation("mse", "body/hidden")], None, False),
            r"must have one shape. Received: \(None, 4\).*\(None, 6\)",
        ),
        (
            lambda s, t: (Subclassed(), t, [FeatureDistillation("mse", "body/hidden", "hidden")]),
            r"functional and sequential models only. Received: Subclassed.*\['hidden'\]",
        ),
    ],
)
def test_invalid_arguments_are_rejected(make, message):
    student, *arguments = make(network(3), network(6, seed=1))
    student(X)
    with pytest.raises(ValueError, match=message):
        compiled(FeatureMatching(student, *arguments, from_logits=True)).fit(X, Y, verbose=0)
