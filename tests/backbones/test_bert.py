import sys

import keras
import numpy as np
import pytest

from keras_lstsd import LSTSD, outputs
from keras_lstsd.backbones import bert
from keras_lstsd.data import TokenBatches, tokens
from tests.backbones.bert_weights import (
    CONFIG,
    PIECES,
    POSITIONS,
    forward,
    random_weights,
    write_google,
    write_hugging_face,
)
from tests.models import guides, made, thorough

pytestmark = pytest.mark.tensorflow
INPUTS = {
    "token_ids": np.array([[2, 5, 6, 3, 8, 9, 10, 3], [2, 9, 3, 8, 3, 0, 0, 0]], "int32"),
    "segment_ids": np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]], "int32"),
    "padding_mask": np.array([[1] * 8, [1] * 5 + [0] * 3], "int32"),
}


def loaded(folder):
    return bert(3, folder, sequence_length=POSITIONS)


@pytest.mark.parametrize("layout", [{}, {"norm": ("weight", "bias"), "prefix": ""}])
def test_both_weight_layouts_compute_bert_bit_for_bit_equally(tmp_path, layout):
    weights = random_weights()
    google = loaded(write_google(tmp_path / "google", weights))
    hugging_face = loaded(write_hugging_face(tmp_path / "hf", weights, **layout))
    sequence, pooled = forward(weights, **INPUTS)
    computed = [student.backbone.predict(INPUTS, verbose=0) for student in (google, hugging_face)]
    for found in computed:
        np.testing.assert_allclose(found["sequence_output"], sequence, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found["pooled_output"], pooled, rtol=0, atol=1e-5)
    for name in computed[0]:
        np.testing.assert_array_equal(computed[0][name], computed[1][name])
    kernel, bias = google.output_dense.get_weights()
    expected = pooled @ kernel + bias
    np.testing.assert_allclose(google(INPUTS), expected, rtol=0, atol=1e-5)
    for student in (google, hugging_face):
        assert student.preprocessor.tokenizer.get_vocabulary() == PIECES


def test_random_network_has_the_number_of_parameters_of_its_size():
    student = bert(2, vocabulary=PIECES, size="tiny", sequence_length=16)
    block = 4 * (128 * 128 + 128) + 128 * 512 + 512 + 512 * 128 + 128 + 4 * 128
    embeddings = (len(PIECES) + 2 + 512) * 128 + 2 * 128
    pooler_and_head = 128 * 128 + 128 + 128 * 2 + 2
    assert student.count_params() == embeddings + 2 * block + pooler_and_head
    assert (outputs.shape(student), outputs.ends_in_logits(student)) == ((2,), True)


def test_vocabulary_without_capitals_ignores_case_and_accents():
    text = "Café Cats"
    for pieces, expected in ((PIECES, [11, 6, 7]), ([*PIECES, "Cat"], [1, 12, 7])):
        tokenizer = bert(2, vocabulary=pieces).preprocessor.tokenizer
        np.testing.assert_array_equal(tokenizer(text), expected)


def test_vocabulary_file_replaces_the_one_of_the_weights(tmp_path):
    folder = write_google(tmp_path / "google", random_weights())
    (folder / "vocab.txt").rename(tmp_path / "pieces.txt")
    student = bert(2, folder, vocabulary=tmp_path / "pieces.txt", sequence_length=POSITIONS)
    assert student.preprocessor.tokenizer.get_vocabulary() == PIECES


def test_invalid_weights_vocabulary_and_size_are_rejected(tmp_path):
    weights = random_weights()
    folder = write_google(tmp_path / "google", weights)
    with pytest.raises(ValueError, match=r"`sequence_length` is too large.*Received: 128"):
        bert(2, folder)
    with pytest.raises(ValueError, match=r"`vocabulary` is too large.*Received: 13"):
        bert(2, folder, vocabulary=[*PIECES, "more"], sequence_length=4)
    with pytest.raises(ValueError, match="folder has no BERT weights.*bert_model.ckpt.index"):
        bert(2, tmp_path)
    with pytest.raises(ValueError, match="Unknown preset identifier"):
        bert(2, tmp_path / "missing")
    with pytest.raises(ValueError, match="`size` is unknown. Received: size='huge'"):
        bert(2, vocabulary=PIECES, size="huge")
    with pytest.raises(
        ValueError, match="Random weights need a vocabulary. Received: weights=None"
    ):
        bert(2)
    other = write_hugging_face(tmp_path / "relu", weights, CONFIG | {"hidden_act": "relu"})
    with pytest.raises(ValueError, match="unsupported BERT. Received: hidden_act='relu'"):
        bert(2, other)
    wide = write_google(tmp_path / "wide", weights, CONFIG | {"intermediate_size": 24})
    with pytest.raises(ValueError, match=r"layer_0/intermediate/dense/kernel of shape \[12, 20\]"):
        bert(2, wide, sequence_length=4)


def test_missing_keras_nlp_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"keras-lstsd\[text\]"):
        bert(2, vocabulary=PIECES)


FIRST = [
    "a cat sat.",
    "a dog.",
    "Cats sat",
    "dogs.",
    "a cat",
    "a dog sat.",
    "cat.",
    "a dog sat",
] * 3
SECOND = ["a cat.", "a cat sat.", "a dog", "cats", "dogs sat.", "a dog.", "a cat", "."] * 3
LABELS = np.array([1, 0, 0, 0, 0, 1, 1, 0] * 3)


def small(dropout=0.0):
    """A BERT with one layer of width 8, which has every part once."""
    from keras_hub import models

    tokenizer = models.BertTokenizer(PIECES, lowercase=True)
    return models.BertTextClassifier(
        models.BertBackbone(len(PIECES), 1, 2, 8, 16, dropout=dropout, max_sequence_length=40),
        2,
        models.BertTextClassifierPreprocessor(tokenizer, sequence_length=40),
        dropout=dropout,
    )


def trained(name, lengths, epochs=4, **options):
    keras.utils.set_random_seed(3)
    student = small()
    x = tokens.encode(student.preprocessor, FIRST, SECOND)
    model = made(name, student, len(LABELS))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = [keras.metrics.SparseCategoricalAccuracy("accuracy")]
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=metrics, **options)
    batches = TokenBatches(x, LABELS, lengths=lengths, pool=1, batch_size=7)
    return model, x, model.fit(batches, epochs=epochs, verbose=0).history


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["lstsd", "mean_teacher", *map(thorough, ("dups", "knowledge_distillation", "prokt"))],
)
def test_padding_and_compiling_do_not_change_a_method(name):
    """Compares batches cut to their texts with all 40 tokens, run eagerly or with XLA."""
    xla = name in ("lstsd", "mean_teacher", "dups")
    cut, _, logs = trained(name, lengths=2)
    options = {"jit_compile": True} if xla else {"run_eagerly": True}
    padded, _, padded_logs = trained(name, lengths=None, **options)
    for log in logs:
        np.testing.assert_allclose(logs[log], padded_logs[log], atol=1e-4, err_msg=log)
    for first, second in zip(cut.get_weights(), padded.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4)
    if cut.logged:
        assert (logs["distillation_loss"][-1] != 0) is guides(name)


def test_exported_preprocessor_makes_the_inputs_of_the_served_model(tmp_path):
    import tensorflow as tf
    from keras_hub import models

    model, x, _ = trained("lstsd", lengths=2, epochs=2)
    expected = model.predict(x, verbose=0)
    model.export(tmp_path / "serving", verbose=False)
    # A client has the exported folder only.
    served = tf.saved_model.load(tmp_path / "serving")
    (signature,) = served.signatures["serving_default"].structured_input_signature[1:]
    assert {name: (spec.dtype, spec.shape.rank) for name, spec in signature.items()} == {
        "token_ids": (tf.int32, 2),
        "segment_ids": (tf.int32, 2),
        "padding_mask": (tf.int32, 2),
    }
    preprocessor = models.TextClassifierPreprocessor.from_preset(
        str(tmp_path / "serving/assets.extra")
    )
    pair = tf.constant(FIRST), tf.constant(SECOND)
    sent = {name: tf.cast(ids, "int32") for name, ids in preprocessor(pair, y=None).items()}
    np.testing.assert_allclose(served.serve(sent), expected, atol=1e-6)
    shorter = {name: ids[:, :16] for name, ids in sent.items()}
    np.testing.assert_allclose(served.serve(shorter), expected, atol=1e-5)
    with pytest.raises((TypeError, ValueError)):
        served.serve(sent | {"padding_mask": sent["padding_mask"] > 0})


def test_saved_student_takes_texts(tmp_path):
    model, x, _ = trained("vanilla", lengths=None, epochs=1)
    model.student.save(tmp_path / "student.keras")
    student = keras.saving.load_model(tmp_path / "student.keras")
    pair = np.array(FIRST), np.array(SECOND)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(student.predict(pair, verbose=0), expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    preprocessor = keras.saving.load_model(tmp_path / "model.keras").student.preprocessor
    encoded = tokens.encode(preprocessor, FIRST, SECOND)
    np.testing.assert_array_equal(encoded["token_ids"], x["token_ids"])


def test_other_keras_hub_classifiers_can_be_students(tmp_path):
    import tensorflow as tf
    from keras_hub import models

    backbone = models.ViTBackbone((8, 8, 3), 4, 1, 2, 8, 16)
    student = models.ViTImageClassifier(backbone, num_classes=3)
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(12, 8, 8, 3)).astype("float32"), draw.integers(0, 3, 12)
    model = LSTSD(student, num_samples=12, mini_generation_epochs=1)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(x, y, epochs=2, verbose=0).history
    assert history["teacher_coverage"] == [0, 1]
    model.export(tmp_path / "serving", verbose=False)
    served = tf.saved_model.load(tmp_path / "serving")
    np.testing.assert_allclose(served.serve(x), student.predict(x, verbose=0), atol=1e-6)
