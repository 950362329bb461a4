import sys

import numpy as np
import pytest

from keras_lstsd import students
from keras_lstsd.backbones import bert
from tests.backbones.bert_weights import (
    CONFIG,
    PIECES,
    POSITIONS,
    forward,
    random_weights,
    write_google,
    write_hugging_face,
)

pytestmark = pytest.mark.tensorflow
INPUTS = {
    "token_ids": np.array([[2, 5, 6, 3, 8, 9, 10, 3], [2, 9, 3, 8, 3, 0, 0, 0]], "int32"),
    "segment_ids": np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]], "int32"),
    "padding_mask": np.array([[1] * 8, [1] * 5 + [0] * 3], "int32"),
}


def loaded(folder):
    return bert(3, folder, sequence_length=POSITIONS)


@pytest.mark.parametrize("layout", [{}, {"norm": ("weight", "bias"), "prefix": ""}])
def test_both_layouts_compute_bert_and_the_same_bits(tmp_path, layout):
    weights = random_weights()
    google = loaded(write_google(tmp_path / "google", weights))
    hugging_face = loaded(write_hugging_face(tmp_path / "hf", weights, **layout))
    sequence, pooled = forward(weights, **INPUTS)
    outputs = [student.backbone.predict(INPUTS, verbose=0) for student in (google, hugging_face)]
    for found in outputs:
        np.testing.assert_allclose(found["sequence_output"], sequence, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found["pooled_output"], pooled, rtol=0, atol=1e-5)
    for name in outputs[0]:
        np.testing.assert_array_equal(outputs[0][name], outputs[1][name])
    kernel, bias = google.output_dense.get_weights()
    expected = pooled @ kernel + bias
    np.testing.assert_allclose(google(INPUTS), expected, rtol=0, atol=1e-5)
    for student in (google, hugging_face):
        assert student.preprocessor.tokenizer.get_vocabulary() == PIECES


def test_a_random_network_has_the_sizes_of_its_name():
    student = bert(2, vocabulary=PIECES, size="tiny", sequence_length=16)
    block = 4 * (128 * 128 + 128) + 128 * 512 + 512 + 512 * 128 + 128 + 4 * 128
    embeddings = (len(PIECES) + 2 + 512) * 128 + 2 * 128
    pooler_and_head = 128 * 128 + 128 + 128 * 2 + 2
    assert student.count_params() == embeddings + 2 * block + pooler_and_head
    assert (students.num_classes(student), students.ends_in_logits(student)) == (2, True)


def test_the_case_of_the_vocabulary_decides_on_case_and_accents():
    text = "Café Cats"
    for pieces, expected in ((PIECES, [11, 6, 7]), ([*PIECES, "Cat"], [1, 12, 7])):
        tokenizer = bert(2, vocabulary=pieces).preprocessor.tokenizer
        np.testing.assert_array_equal(tokenizer(text), expected)


def test_a_vocabulary_may_lie_in_a_file_and_beside_weights(tmp_path):
    folder = write_google(tmp_path / "google", random_weights())
    (folder / "vocab.txt").rename(tmp_path / "pieces.txt")
    student = bert(2, folder, vocabulary=tmp_path / "pieces.txt", sequence_length=POSITIONS)
    assert student.preprocessor.tokenizer.get_vocabulary() == PIECES


def test_what_is_no_bert_is_told(tmp_path):
    weights = random_weights()
    folder = write_google(tmp_path / "google", weights)
    with pytest.raises(ValueError, match=r"too small for this sequence_length. Received: 128"):
        bert(2, folder)
    with pytest.raises(ValueError, match=r"too small for this vocabulary. Received: 13"):
        bert(2, folder, vocabulary=[*PIECES, "more"], sequence_length=4)
    with pytest.raises(ValueError, match="no BERT in this folder.*bert_model.ckpt.index"):
        bert(2, tmp_path)
    with pytest.raises(ValueError, match="Unknown preset identifier"):
        bert(2, tmp_path / "missing")
    with pytest.raises(ValueError, match="No such size of BERT. Received: 'huge'"):
        bert(2, vocabulary=PIECES, size="huge")
    with pytest.raises(ValueError, match="vocabulary=None beside random weights"):
        bert(2)
    other = write_hugging_face(tmp_path / "relu", weights, CONFIG | {"hidden_act": "relu"})
    with pytest.raises(ValueError, match="another kind of BERT. Received: hidden_act='relu'"):
        bert(2, other)
    wide = write_google(tmp_path / "wide", weights, CONFIG | {"intermediate_size": 24})
    with pytest.raises(ValueError, match=r"layer_0/intermediate/dense/kernel of shape \[12, 20\]"):
        bert(2, wide, sequence_length=4)


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"keras-lstsd\[text\]"):
        bert(2, vocabulary=PIECES)
