"""Exported folders serve without Keras and this library, and contain the student only."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_lstsd import LSTSD, MeanTeacher, SnapshotEnsemble
from keras_lstsd.backbones import text_cnn
from tests.models import slow, wrapped

SAMPLES = 12
draw = np.random.default_rng(0)
IMAGES = draw.normal(size=(SAMPLES, 8, 8, 3)).astype("float32")
TOKENS = draw.integers(0, 50, (SAMPLES, 7)).astype("int32")
NUMBERS = draw.normal(size=(SAMPLES, 3)).astype("float32")
LABELS = np.arange(SAMPLES) % 3


def image_student():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(momentum=0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            layers.Dense(3, activation="softmax"),
        ]
    )


def dict_student():
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    numbers = keras.Input((3,), name="numbers")
    words = layers.GlobalAveragePooling1D()(layers.Embedding(50, 5)(tokens))
    joined = layers.Concatenate()([words, numbers])
    unit = layers.Dense(1, activation="sigmoid")(joined)
    return keras.Model({"tokens": tokens, "numbers": numbers}, unit)


def trained(student, x, y, cls=LSTSD, **arguments):
    model = wrapped(cls, student, SAMPLES, **arguments)
    loss = (
        keras.losses.BinaryCrossentropy(from_logits=model.from_logits)
        if student.output_shape[-1] == 1
        else keras.losses.SparseCategoricalCrossentropy(from_logits=model.from_logits)
    )
    model.compile(keras.optimizers.Adam(0.03), loss)
    model.fit(x, y, batch_size=4, epochs=3, verbose=0)
    return model


# The model, its inputs, and those of its signature.
MODELS = {
    "image": lambda: (
        trained(image_student(), IMAGES, LABELS),
        IMAGES,
        {"image": ["float32", [None, 8, 8, 3]]},
    ),
    "text": lambda: (
        trained(text_cnn(50, 3, embedding_dim=5, filters=4), TOKENS, LABELS),
        TOKENS,
        {"word_ids": ["int32", [None, None]]},
    ),
    "dict": lambda: (
        trained(dict_student(), {"tokens": TOKENS, "numbers": NUMBERS}, LABELS % 2),
        {"tokens": TOKENS, "numbers": NUMBERS},
        {"tokens": ["int32", [None, 7]], "numbers": ["float32", [None, 3]]},
    ),
}

CLIENT = """if True:
    import sys
    sys.modules["keras"] = sys.modules["keras_lstsd"] = None  # An import of them would fail.
    import json, numpy as np, tensorflow as tf
    folder = sys.argv[1]
    arrays = dict(np.load(folder + "/x.npz"))
    plain, named = (tf.saved_model.load(folder + "/" + name) for name in ("plain", "named"))
    calls = {
        "plain": plain.serve,
        "compiled": tf.function(plain.serve, jit_compile=True),
        "named": named.serve,
        "named_compiled": tf.function(
            lambda x: named.serve(x)["probabilities"], jit_compile=True
        ),
    }
    answers = {}
    for size in (1, len(next(iter(arrays.values())))):
        x = {name: array[:size] for name, array in arrays.items()}
        x = x.get("only", x)
        for name, call in calls.items():
            answer = call(x)
            answer = answer if isinstance(answer, dict) else {"": answer}
            for key, value in answer.items():
                answers[f"{name} {key} {size}"] = value.numpy()
    np.savez(folder + "/answers.npz", **answers)
    reader = tf.train.load_checkpoint(folder + "/named/variables/variables")
    shapes = reader.get_variable_to_shape_map()
    inputs = named.signatures["serving_default"].structured_input_signature[1]
    print(json.dumps({
        "shapes": sorted(v for k, v in shapes.items() if "_CHECKPOINTABLE" not in k),
        "inputs": {k: [v.dtype.name, v.shape.as_list()] for k, v in inputs.items()},
        "imported": [k for k in sys.modules if k.split(".")[0] in ("keras", "keras_lstsd")],
    }))
"""


def run(*command):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def softmax(outputs, from_logits):
    """The probabilities of outputs of any kind."""
    if outputs.shape[-1] == 1:
        p = 1 / (1 + np.exp(-outputs)) if from_logits else outputs
        return np.hstack([1 - p, p])
    if not from_logits:
        return outputs
    exponentials = np.exp(outputs - outputs.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", [it if it == "dict" else slow(it) for it in MODELS])
def test_a_client_without_keras_gets_the_outputs_of_predict(tmp_path, kind):
    model, x, inputs = MODELS[kind]()
    names = ["Katze", "Hündin", "dog"][: model.num_classes]
    model.export(tmp_path / "plain", verbose=False)
    model.export(tmp_path / "named", verbose=False, probabilities=True, class_names=names)
    np.savez(tmp_path / "x.npz", **(x if isinstance(x, dict) else {"only": x}))
    client = json.loads(run(sys.executable, "-c", CLIENT, tmp_path).splitlines()[-1])
    assert client["inputs"] == inputs
    assert sorted(client["imported"]) == [
        "keras",
        "keras_lstsd",
    ]  # The two that the client blocked.
    # Each weight once; no seed, table, teacher or optimizer.
    assert client["shapes"] == sorted(list(weight.shape) for weight in model.student.weights)
    outputs = model.predict(x, verbose=0)
    probabilities = softmax(outputs, model.from_logits)
    most_probable = np.array(names)[probabilities.argmax(-1)]
    assert len(set(most_probable)) > 1
    expected = {
        "plain ": outputs,
        "compiled ": outputs,
        "named probabilities": probabilities,
        "named class_name": most_probable,
        "named_compiled ": probabilities,
    }
    answers = dict(np.load(tmp_path / "answers.npz", allow_pickle=True))
    assert len(answers) == 2 * len(expected)
    for name, values in expected.items():
        for size in (1, SAMPLES):
            answer = answers[f"{name} {size}"]
            if name == "named class_name":
                found = [name.decode() for name in answer]
                np.testing.assert_array_equal(found, values[:size])
            else:
                np.testing.assert_allclose(answer, values[:size], rtol=0, atol=1e-6)


@pytest.mark.tensorflow
def test_the_command_line_client_gets_the_outputs_of_predict(tmp_path):
    model, x, _ = MODELS["dict"]()
    model.export(tmp_path / "1", verbose=False, probabilities=True, class_names=["ham", "spam"])
    for name, array in x.items():
        np.save(tmp_path / f"{name}.npy", array)
    run(
        *(Path(sys.executable).with_name("saved_model_cli"), "run", "--dir", tmp_path / "1"),
        *("--tag_set", "serve", "--signature_def", "serving_default", "--outdir", tmp_path),
        *("--inputs", ";".join(f"{name}={tmp_path / name}.npy" for name in x)),
    )
    chance = model.predict(x, verbose=0)
    answer = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(answer, np.hstack([1 - chance, chance]), rtol=0, atol=1e-6)
    names = np.load(tmp_path / "class_name.npy", allow_pickle=True).astype(str)
    np.testing.assert_array_equal(names, np.where(chance[:, 0] > 0.5, "spam", "ham"))


@pytest.mark.tensorflow
def test_the_folder_is_as_large_as_the_students_weights(tmp_path):
    """Within 5 %, graph included; tables and optimizer would make it six times as much."""
    student = keras.Sequential(
        [keras.Input((1000,)), layers.Dense(1000), layers.Dropout(0.2), layers.Dense(10)]
    )
    model = LSTSD(student, num_samples=100_000)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(draw.normal(size=(4, 1000)).astype("float32"), np.arange(4), verbose=0)
    model.export(tmp_path / "1", verbose=False, class_names=list("abcdefghij"))
    weights = sum(weight.numpy().nbytes for weight in student.weights)
    all_variables = model.variables + model.optimizer.variables
    assert sum(variable.numpy().nbytes for variable in all_variables) > 5 * weights
    folder = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert weights < folder < 1.05 * weights


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("cls", "arguments", "options"),
    [
        (MeanTeacher, {"momentum": 0.5}, {"teacher": True}),
        (SnapshotEnsemble, {"mini_generation_epochs": 1}, {}),
    ],
)
def test_class_names_are_those_of_the_outputs_of_predict(tmp_path, cls, arguments, options):
    import tensorflow as tf

    student = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    model = trained(student, NUMBERS, LABELS, cls, **arguments)
    outputs = model.predict(NUMBERS, verbose=0, **options)
    assert np.abs(outputs - student.predict(NUMBERS, verbose=0)).max() > 1e-2
    names = ["a", "b", "c"]
    for probabilities, key in ((False, "outputs"), (True, "probabilities")):
        folder = tmp_path / key
        model.export(
            folder, verbose=False, probabilities=probabilities, class_names=names, **options
        )
        loaded = tf.saved_model.load(folder)
        answer = loaded.serve(NUMBERS)
        assert sorted(answer) == ["class_name", key]
        expected = softmax(outputs, model.from_logits) if probabilities else outputs
        np.testing.assert_allclose(answer[key], expected, rtol=0, atol=1e-6)
        found = answer["class_name"].numpy().astype(str)
        np.testing.assert_array_equal(found, np.array(names)[outputs.argmax(-1)])


@pytest.mark.tensorflow
def test_a_subclassed_student_gets_its_dtypes_from_the_signature(tmp_path):
    import tensorflow as tf

    class Bag(keras.Model):
        def __init__(self):
            super().__init__()
            self.words = layers.Embedding(50, 3)

        def call(self, tokens):
            return keras.ops.mean(self.words(tokens), axis=1)

    student = Bag()
    student(TOKENS)
    model = LSTSD(student, SAMPLES, from_logits=True)
    signature = [keras.InputSpec(shape=(None, 7), dtype="int32", name="tokens")]
    model.export(tmp_path / "1", verbose=False, input_signature=signature)
    served = tf.saved_model.load(tmp_path / "1")
    inputs = served.signatures["serving_default"].structured_input_signature[1]
    assert inputs == {"tokens": tf.TensorSpec((None, 7), tf.int32, "tokens")}
    np.testing.assert_allclose(
        served.serve(TOKENS), model.predict(TOKENS, verbose=0), rtol=0, atol=1e-6
    )


@pytest.mark.tensorflow
def test_a_student_of_strings_is_exported_with_its_vocabulary(tmp_path):
    import tensorflow as tf

    words = layers.TextVectorization(vocabulary=["cat", "sat", "here"], output_sequence_length=3)
    student = keras.Sequential(
        [
            keras.Input((), dtype="string", name="sentence"),
            words,
            layers.Embedding(5, 4),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    LSTSD(student, SAMPLES).export(tmp_path / "1", verbose=False)
    served = tf.saved_model.load(tmp_path / "1")
    sentences = tf.constant(["cat sat", "unheard of", "here"])
    np.testing.assert_allclose(
        served.serve(sentences), student.predict(sentences, verbose=0), rtol=0, atol=1e-6
    )
    shapes = tf.train.load_checkpoint(
        tmp_path / "1/variables/variables"
    ).get_variable_to_shape_map()
    written = sorted(shape for name, shape in shapes.items() if name.endswith("VARIABLE_VALUE"))
    assert written == sorted(list(weight.shape) for weight in student.weights)


# === Errors ===


def linear(cls=LSTSD):
    return wrapped(cls, keras.Sequential([keras.Input((3,)), layers.Dense(3)]), SAMPLES)


def test_class_names_that_are_not_one_per_class_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"\['a', 'b'\].* a list of 3 different strings"):
        linear().export(tmp_path / "1", class_names=["a", "b"])
    assert not list(tmp_path.iterdir())


def test_a_student_without_weights_is_rejected(tmp_path):
    model = LSTSD(keras.Sequential([layers.Dense(3)]), SAMPLES)
    with pytest.raises(
        ValueError, match="The student has no weights to export yet.*export after `fit`"
    ):
        model.export(tmp_path / "1", class_names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (LSTSD, {"probabilities": True}),
        (LSTSD, {"class_names": ["a", "b", "c"]}),
        (SnapshotEnsemble, {}),
    ],
)
def test_other_formats_export_the_student_only(tmp_path, cls, options):
    formats = ["onnx"]
    if keras.backend.backend() != "tensorflow":
        formats.append("tf_saved_model")
    for format in formats:
        with pytest.raises(NotImplementedError, match=f"format='{format}' on .*model.student"):
            linear(cls).export(tmp_path / "1", format=format, **options)


@pytest.mark.tensorflow
@pytest.mark.parametrize("option", ["teacher", "class_name"])
def test_an_unknown_option_is_rejected(tmp_path, option):
    with pytest.raises(TypeError, match=f"Received: {option}. Expected: `probabilities`"):
        linear().export(tmp_path / "1", **{option: True})
