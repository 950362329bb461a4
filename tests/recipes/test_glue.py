import pytest

from tests.recipes.loading import load

recipe = load("glue")
PAPERS = {
    "samples": None,
    "wrong_labels": 0.0,
    "epochs": 50,
    "bert": "base",
    "student_layers": None,
}


def test_tables_show_the_papers_numbers():
    assert recipe.paper_of("rte", "cnn", PAPERS)["lstsd"] == 57.40
    assert recipe.paper_of("mrpc", "bert", PAPERS)["vanilla"] == 86.03


@pytest.mark.parametrize(
    "other",
    [
        {"samples": 64},
        {"wrong_labels": 0.2},
        {"epochs": 4},
        {"bert": None},
        {"student_layers": ["2", "4"]},
    ],
)
def test_the_papers_numbers_are_not_beside_other_trainings(other):
    assert recipe.paper_of("mrpc", "bert", PAPERS | other) is None
    assert recipe.paper_of("mrpc", "bilstm", PAPERS) is None
