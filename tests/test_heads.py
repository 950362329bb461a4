"""Students with several outputs, of which one is guided.

Where the outputs share no layers, the guided one trains as a student of its own with the method,
and the others as plain students. The formulas of the methods are tested there.
"""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lstsd
from recipes.methods import METHODS
from tests.models import NAMES, TINY, assert_same, rarely

SAMPLES, CLASSES, EPOCHS, BATCH = 22, 3, 5, 5
draw = np.random.default_rng(7)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = {
    "classes": draw.integers(0, CLASSES, SAMPLES),
    "places": draw.normal(size=(SAMPLES, 2)).astype("float32"),
}
WEIGHTS = {name: draw.uniform(0.2, 2, SAMPLES).astype("float32") for name in Y}
# These need all outputs, or the layer before the only one.
REJECTED = ("prokt", "snapshot_ensemble", "feature_matching", "crd")


def losses():
    return {
        "classes": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "places": keras.losses.MeanSquaredError(),
    }


def parts(inputs, shared=False, seed=1):
    """The two outputs by name, with or without a common layer."""
    keras.utils.set_random_seed(seed)
    trunk = layers.Dense(6, activation="tanh")(inputs) if shared else inputs
    hidden = {name: layers.Dense(5, activation="tanh", kernel_regularizer="l2") for name in Y}
    last = {name: layers.Dense(units, name=name) for name, units in (("classes", 3), ("places", 2))}
    return {name: last[name](hidden[name](trunk)) for name in Y}


def network(kind=dict, **options):
    """A student with two outputs, as a dict or a list."""
    inputs = keras.Input((4,))
    made = parts(inputs, **options)
    return keras.Model(inputs, made if kind is dict else [made["places"], made["classes"]])


def part(name, seed=1):
    """A student with one of the outputs of `network()`."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, parts(inputs, seed=seed)[name])


def wrapped(name, student, settings=None, **options):
    method = METHODS[name]
    arguments = method.arguments | TINY[name] | (settings or {}) | options
    teacher = {"given": part("classes", 2), "anchors": [part("classes", 2), part("classes", 3)]}
    return method.wrap(student, SAMPLES, teacher.get(method.teacher), **arguments)


def fit(model, y, weights=None, loss=None, rate=0.5, epochs=EPOCHS, jit_compile=False, **options):
    keras.utils.set_random_seed(3)
    model.compile(keras.optimizers.SGD(rate), loss, jit_compile=jit_compile, **options)
    arguments = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(X, y, sample_weight=weights, **arguments).history


def as_list(values):
    """In the order of the outputs of `network(list)`."""
    return values and [values["places"], values["classes"]]


def weights_of(student, name):
    """Of the layers that lead to an output."""
    return keras.Model(student.input, student.get_layer(name).output).get_weights()


@pytest.mark.parametrize(
    ("name", "kind", "weighted"),
    [
        *(rarely(name, dict, False) for name in NAMES if name not in REJECTED),
        ("lstsd", list, True),
        ("knowledge_distillation", dict, True),
        rarely("stored_teacher", list, True),
    ],
)
def test_outputs_without_common_layers_train_as_students_of_their_own(name, kind, weighted):
    student, weights = network(kind), WEIGHTS if weighted else None
    model = wrapped(name, student, guided_output="classes")
    as_kind = dict if kind is dict else as_list
    history = fit(model, as_kind(Y), weights and as_kind(weights), as_kind(losses()))
    for output, method in (("classes", name), ("places", "vanilla")):
        alone = part(output)
        own = weights and weights[output]
        expected = fit(wrapped(method, alone), Y[output], own, losses()[output])
        for found, value in zip(weights_of(student, output), alone.get_weights(), strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
        for log in expected.keys() & set(METHODS[name].cls.logged):
            np.testing.assert_allclose(history[log], expected[log], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [True])
def test_a_weight_of_the_loss_weighs_the_guidance_too(jit_compile):
    """At half of the weight and twice the rate it trains as at the whole weight."""
    trained = []
    for weight, rate in ((1.0, 0.25), (0.5, 0.5)):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4,))
        outputs = {name: layers.Dense(n, name=name)(inputs) for name, n in (("a", 3), ("b", 2))}
        student = keras.Model(inputs, outputs)
        model = wrapped("lstsd", student, guided_output="a")
        labels = {"a": Y["classes"], "b": Y["places"]}
        loss = dict(zip("ab", losses().values(), strict=True))
        options = {"loss_weights": {"a": weight, "b": 0.1}, "jit_compile": jit_compile}
        fit(model, labels, None, loss, rate, **options)
        trained.append(student.get_layer("a").get_weights())
    for first, second in zip(*trained, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)
    assert not np.allclose(trained[0][0], 0)


@pytest.mark.parametrize("kind", [dict, list])
def test_without_guidance_all_outputs_train_as_in_plain_keras_bit_for_bit(kind):
    as_kind = dict if kind is dict else as_list
    options = {"loss_weights": as_kind({"classes": 0.5, "places": 2.0})}
    students, histories = [], []
    for wrap in (True, False):
        student = network(kind, shared=True)
        off = {"long_weight": 0.0, "short_weight": 0.0}
        model = wrapped("lstsd", student, off, guided_output="classes") if wrap else student
        metrics = as_kind({"classes": ["accuracy"], "places": ["mae"]})
        labels, weights = as_kind(Y), as_kind(WEIGHTS)
        histories.append(fit(model, labels, weights, as_kind(losses()), metrics=metrics, **options))
        students.append(student)
    assert_same(*students)
    for log, values in histories[1].items():
        assert histories[0][log] == values


def test_a_saved_model_continues_and_an_export_has_the_guided_output(tmp_path):
    model = wrapped("lstsd", network(shared=True), guided_output="classes")
    fit(model, Y, None, losses(), epochs=3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.guided_output == "classes"
    for each in (model, again):
        each.fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    assert_same(model.student, again.student)
    assert set(model.predict(X, verbose=0)) == set(Y)
    assert model.logits_of(model.predict(X, verbose=0)).shape == (SAMPLES, CLASSES)


@pytest.mark.tensorflow
def test_probabilities_of_the_guided_output_are_served(tmp_path):
    import tensorflow as tf

    model = wrapped("vanilla", network(), guided_output="classes")
    fit(model, Y, None, losses(), epochs=1)
    model.export(tmp_path / "1", probabilities=True, verbose=False)
    served = tf.saved_model.load(tmp_path / "1")
    expected = keras.ops.softmax(model.predict(X, verbose=0)["classes"])
    np.testing.assert_allclose(served.serve(X), expected, atol=1e-6)


def test_a_data_set_has_labels_by_name():
    tf = pytest.importorskip("tensorflow")
    students = []
    for numbered in (True, False):
        student = network(shared=True)
        model = wrapped("temporal_ensembling", student, guided_output="classes")
        model.compile(keras.optimizers.SGD(0.5), losses())
        if numbered:
            data = tf.data.Dataset.from_tensor_slices((X, Y))
            model.fit(keras_lstsd.data.with_sample_index(data).batch(BATCH), epochs=4, verbose=0)
        else:
            model.fit(X, Y, batch_size=BATCH, epochs=4, shuffle=False, verbose=0)
        students.append(student)
    assert_same(*students, rtol=1e-5, atol=1e-6)


class Own(keras.Model):
    """A student with a `call` of its own."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return {"classes": self.dense(x), "twice": 2 * self.dense(x)}


def test_an_output_that_does_not_exist_is_rejected():
    with pytest.raises(ValueError, match=r"no such output.*'boxes'.*\['classes', 'places'\]"):
        keras_lstsd.LSTSD(network(), guided_output="boxes")
    student = Own()
    student(X)
    with pytest.raises(ValueError, match="no such output.*made by `keras.Model"):
        keras_lstsd.LSTSD(student, guided_output="classes")


def test_several_outputs_without_a_name_are_rejected():
    with pytest.raises(ValueError, match="pass the name of one as `guided_output`"):
        keras_lstsd.LSTSD(network())


def test_methods_that_need_all_outputs_reject_a_name():
    with pytest.raises(ValueError, match="ProKT takes students with one output"):
        keras_lstsd.ProKT(network(), part("classes"), guided_output="classes")
    with pytest.raises(ValueError, match="SnapshotEnsemble takes students with one output"):
        keras_lstsd.SnapshotEnsemble(network(), guided_output="classes")


def test_samples_without_a_label_are_rejected():
    model = wrapped("lstsd", network(), guided_output="classes")
    with pytest.raises(ValueError, match="without a label need a student with one output"):
        fit(
            model,
            Y | {"classes": np.where(np.arange(SAMPLES) < 3, -1, Y["classes"])},
            None,
            losses(),
        )


def test_options_that_a_method_does_not_use_are_rejected():
    with pytest.raises(TypeError, match="MeanTeacher does not use `num_samples`"):
        keras_lstsd.MeanTeacher(part("classes"), num_samples=10)
    with pytest.raises(TypeError, match="ELR does not use `mini_generation_epochs`"):
        keras_lstsd.ELR(part("classes"), mini_generation_epochs=3)
