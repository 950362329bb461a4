"""Wrong labels: which, how many, and what they should be."""

import csv

import keras
import numpy as np
import pytest

import keras_lstsd
from keras_lstsd import columns, find_label_issues
from keras_lstsd.label_issues import (
    confused_classes,
    corrected_labels,
    issues_by_class,
    write_issues,
)

SAMPLES, CLASSES, EPOCHS = 40, 5, 3
DRAW = np.random.default_rng(0)
EPOCHS_OF_P = DRAW.dirichlet(np.full(CLASSES, 0.5), (EPOCHS, SAMPLES))
Y = np.where(
    DRAW.random(SAMPLES) < 0.5, EPOCHS_OF_P.mean(0).argmax(-1), DRAW.integers(0, CLASSES, SAMPLES)
)


def assert_of_formula(issues, epochs, y=Y):
    """The issues are those of the formulas, sample by sample."""
    for i, label in enumerate(y):
        margins, mean = [], epochs[:, i].mean(0)
        for p in epochs[:, i]:
            margins.append(np.log(p[label]) - max(np.log(np.delete(p, label))))
        margin = np.mean(margins)
        assert issues["is_label_issue"][i] == (margin < 0)
        np.testing.assert_allclose(issues["label_score"][i], 1 / (1 + np.exp(-margin)), rtol=1e-6)
        best = label
        if margin < 0:
            best = max((c for c in range(CLASSES) if c != label), key=lambda c: mean[c])
        assert issues["predicted_label"][i] == best
        np.testing.assert_allclose(issues["predicted_probability"][i], mean[best], rtol=1e-6)
    np.testing.assert_array_equal(issues["given_label"], y)
    np.testing.assert_array_equal(issues["sample_index"], np.arange(len(y)))


def test_the_issues_of_epochs_are_those_of_the_formulas():
    issues = find_label_issues(EPOCHS_OF_P, Y)
    assert_of_formula(issues, EPOCHS_OF_P)
    assert 5 < issues["is_label_issue"].sum() < SAMPLES


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_issues_of_one_prediction_are_those_of_the_formulas(dtype):
    p = EPOCHS_OF_P[0].astype(dtype)
    assert_of_formula(find_label_issues(p, np.eye(CLASSES)[Y]), p[None].astype("float64"))


def test_the_issues_of_a_trained_model_are_those_of_its_tables():
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(CLASSES, "softmax")])
    model = keras_lstsd.LSTSD(student, mini_generation_epochs=2)
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    x = DRAW.normal(size=(SAMPLES, 4))
    model.fit(x, Y, epochs=3, verbose=0)
    issues = find_label_issues(model, Y)
    assert_of_formula(issues, keras_lstsd.label_quality.beliefs(model)[None].astype("float64"))
    assert issues["is_label_issue"].any()


def test_a_sample_without_a_label_or_prediction_has_no_issue():
    p, y = EPOCHS_OF_P.copy(), Y.copy()
    p[:, 3] = np.nan
    y[7] = -1
    # Of one epoch only, the others count.
    p[1, 11] = np.nan
    issues = find_label_issues(p, y)
    without = np.isin(np.arange(SAMPLES), (3, 7))
    np.testing.assert_array_equal(np.isnan(issues["label_score"]), without)
    np.testing.assert_array_equal(issues["predicted_label"] == -1, without)
    np.testing.assert_array_equal(np.isnan(issues["predicted_probability"]), without)
    assert not issues["is_label_issue"][without].any()
    alone = find_label_issues(EPOCHS_OF_P[[0, 2]], Y)
    assert issues["label_score"][11] == alone["label_score"][11]


def test_scores_of_certain_predictions_are_finite_and_ordered():
    p = np.array([[1.0, 0.0, 0.0], [0.999, 0.001, 0.0], [1.0, 0.0, 0.0]])
    issues = find_label_issues(p, np.array([0, 1, 2]))
    assert issues["label_score"][0] > 0.999
    assert 0 < issues["label_score"][2] < issues["label_score"][1] < 0.01
    assert issues["predicted_label"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("predictions", "received"),
    [
        (np.zeros((SAMPLES, CLASSES)), "rows that do not sum to 1"),
        (np.log(EPOCHS_OF_P[0]), "rows that do not sum to 1, or have negative entries"),
        (np.ones((SAMPLES, 1)), r"shape \(40, 1\)"),
        (np.ones(SAMPLES), r"shape \(40,\)"),
        (Y, "ndarray of dtype int64"),
        (keras.Sequential(), "Sequential of dtype object"),
    ],
)
def test_predictions_that_are_no_probabilities_are_rejected(predictions, received):
    with pytest.raises(ValueError, match=f"not probabilities. Received: {received}.*softmax"):
        find_label_issues(predictions, Y)


@pytest.mark.parametrize("y", [Y[:-1], Y + 1])
def test_labels_that_do_not_fit_are_rejected(y):
    with pytest.raises(ValueError, match=r"labels do not fit.*Expected: 40"):
        find_label_issues(EPOCHS_OF_P, y)


def test_a_model_without_tables_is_rejected():
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(CLASSES, "softmax")])
    with pytest.raises(ValueError, match=r"no table of predictions.*MeanTeacher"):
        find_label_issues(keras_lstsd.MeanTeacher(student), Y)


# === Counts ===

ISSUES = {
    "sample_index": np.arange(8),
    "is_label_issue": np.array([1, 0, 1, 1, 0, 1, 0, 0], bool),
    "label_score": np.array([0.3, 0.9, 0.1, 0.2, np.nan, 0.4, 0.8, 0.7]),
    "given_label": np.array([0, 0, 2, 2, -1, 0, 2, 4]),
    "predicted_label": np.array([2, 0, 1, 0, -1, 2, 2, 4]),
    "predicted_probability": np.array([0.6, 0.9, 0.8, 0.7, np.nan, 0.5, 0.9, 0.9]),
}


def test_issues_are_counted_by_class():
    by_class = issues_by_class(ISSUES)
    assert by_class["given_label"].tolist() == [0, 2, 4]
    assert by_class["labels"].tolist() == [3, 3, 1]
    assert by_class["issues"].tolist() == [2, 2, 0]
    np.testing.assert_allclose(by_class["share"], [2 / 3, 2 / 3, 0])


def test_pairs_of_classes_are_counted():
    pairs = confused_classes(ISSUES)
    assert pairs["given_label"].tolist() == [0, 2, 2]
    assert pairs["predicted_label"].tolist() == [2, 0, 1]
    assert pairs["issues"].tolist() == [2, 1, 1]


def test_without_issues_there_are_no_pairs():
    none = ISSUES | {"is_label_issue": np.zeros(8, bool)}
    assert {name: len(column) for name, column in confused_classes(none).items()} == {
        "given_label": 0,
        "predicted_label": 0,
        "issues": 0,
    }
    assert not issues_by_class(none)["issues"].any()


# === Corrections by people ===

NAMES = ["cat", "dog", "Cat, large", "-", "ox"]
GIVEN = np.array([0, 0, 2, 2, -1, 0, 2, 4])


def test_the_file_has_the_issues_with_the_most_suspicious_first(tmp_path):
    write_issues(tmp_path / "issues.csv", ISSUES, NAMES)
    found = columns.read(tmp_path / "issues.csv")
    assert found["sample_index"].tolist() == [2, 3, 0, 5]
    assert found["given_label"].tolist() == ["Cat, large", "Cat, large", "cat", "cat"]
    assert found["predicted_label"].tolist() == ["dog", "cat", "Cat, large", "Cat, large"]
    assert found["corrected_label"].tolist() == [""] * 4
    assert (tmp_path / "issues.csv").read_text().splitlines()[0].endswith(",corrected_label")


@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_corrections_are_read_back(names, separator, tmp_path):
    path = tmp_path / "issues.csv"
    write_issues(path, ISSUES, names)
    found = columns.read(path)
    dog = "dog" if names else "1"
    found["corrected_label"] = np.array([dog, "", "-1", ""])
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(found)
        writer.writerows(zip(*found.values(), strict=True))
    corrected = corrected_labels(path, GIVEN, names)
    assert corrected.tolist() == [-1, 0, 1, 2, -1, 0, 2, 4]
    assert GIVEN.tolist() == [0, 0, 2, 2, -1, 0, 2, 4]


def test_an_unchanged_file_changes_no_label(tmp_path):
    write_issues(tmp_path / "issues.csv", ISSUES)
    np.testing.assert_array_equal(corrected_labels(tmp_path / "issues.csv", GIVEN), GIVEN)


def test_unsigned_labels_can_lose_their_label(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sample_index,corrected_label\n1,-1\n0,7.0\n")
    y = np.array([200, 7], "uint8")
    assert corrected_labels(path, y).tolist() == [7, -1]


def test_labels_of_positions_are_corrected(tmp_path):
    path, y = tmp_path / "a.csv", np.array([[0, 1, 2], [2, 1, 0]])
    path.write_text("sample_index,position,corrected_label\n1,0,0\n0,2,1\n")
    assert corrected_labels(path, y).tolist() == [[0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("2,bird", NAMES),
        ("2,bird", None),
        ("8,1", None),
        ("-1,1", None),
        ("x,1", None),
        ("2,-2", None),
    ],
)
def test_a_correction_that_cannot_be_read_is_rejected(line, names, tmp_path):
    (tmp_path / "a.csv").write_text(f"sample_index,corrected_label\n0,-1\n{line}\n")
    with pytest.raises(ValueError, match=r"a\.csv has a correction.*in line 3.*shape \(8,\)"):
        corrected_labels(tmp_path / "a.csv", GIVEN, names)


def test_a_file_of_other_columns_is_rejected(tmp_path):
    (tmp_path / "a.csv").write_text("id,label\n0,1\n")
    with pytest.raises(ValueError, match=r"Received: the columns \['id', 'label'\]"):
        corrected_labels(tmp_path / "a.csv", GIVEN)


@pytest.mark.parametrize(
    ("columns", "y"),
    [("sample_index,position", GIVEN), ("sample_index", np.eye(3, dtype=int))],
)
def test_corrections_of_labels_of_another_shape_are_rejected(columns, y, tmp_path):
    (tmp_path / "a.csv").write_text(f"{columns},corrected_label\n1,1,1\n")
    with pytest.raises(ValueError, match=r"no corrections of labels of shape"):
        corrected_labels(tmp_path / "a.csv", y)


@pytest.mark.parametrize("line", ["0,5,1", "-1,4,1", "2,0,1", "0,,1"])
def test_a_place_outside_the_labels_is_rejected(line, tmp_path):
    (tmp_path / "a.csv").write_text(f"sample_index,position,corrected_label\n{line}\n")
    with pytest.raises(ValueError, match=r"in line 2.*labels of shape \(2, 3\)"):
        corrected_labels(tmp_path / "a.csv", np.array([[0, 1, 2], [2, 1, 0]]))


def test_a_file_in_another_encoding_is_rejected(tmp_path):
    text = "sample_index,given_label,corrected_label\n0,Kühe,Kühe\n"
    (tmp_path / "a.csv").write_bytes(text.encode("cp1252"))
    with pytest.raises(ValueError, match=r"a\.csv is not text in UTF-8.*CSV UTF-8"):
        corrected_labels(tmp_path / "a.csv", GIVEN, ["Kühe"])


def test_a_class_without_a_name_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"Received: 3 names, and class 4"):
        write_issues(tmp_path / "a.csv", ISSUES, NAMES[:3])


def test_one_hot_labels_cannot_be_corrected(tmp_path):
    (tmp_path / "a.csv").write_text("sample_index,corrected_label\n0,1\n")
    with pytest.raises(ValueError, match=r"Received: dtype float64.*argmax"):
        corrected_labels(tmp_path / "a.csv", np.eye(3))


def test_another_ending_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"issues\.parquet.*ends in \.csv"):
        write_issues(tmp_path / "issues.parquet", ISSUES)
