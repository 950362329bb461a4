"""README, BUILD and docstrings: examples run, links resolve, words are plain technical English."""

import ast
import inspect
import io
import math  # noqa: F401
import pkgutil
import re
import tokenize
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_lstsd
from tests.encoded_images import png, write_records, write_tree

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "BUILD.md", *sorted((ROOT / "recipes/results").glob("*.md"))]
SOURCES = sorted(
    path for folder in ("keras_lstsd", "recipes") for path in (ROOT / folder).rglob("*.py")
)
WORD_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "it"]
# What to write instead, by the pattern of a word that is not plain technical English.
GLOSSARY = {
    r"anew": "again",
    r"(no|some)body's": "out-of-range index, spare row",
    r"tells?|told": "log, report, describe, print",
    r"edges?": "epoch boundary, stage",
    r"rooms|houses|housed": "module, file, layout",
    r"refus(e|es|ed|al|ing)": "reject, raise",
    r"taken away": "preemptible machine",
    r"whereof|thereof|alike": "a plain sentence",
}


def docstring_examples() -> dict[str, str]:
    """The `>>>` lines of each docstring of the package, by the name of the documented object."""
    found = {}
    for info in pkgutil.walk_packages(keras_lstsd.__path__, "keras_lstsd."):
        source = inspect.getsource(import_module(info.name))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                lines = (ast.get_docstring(node) or "").splitlines()
                code = [
                    line.strip()[4:] for line in lines if line.strip().startswith((">>> ", "... "))
                ]
                if code:
                    found[f"{info.name}.{node.name}"] = "\n".join(code)
    return found


def python_blocks(page: str) -> dict[str, str]:
    """The Python blocks of a page, by their line number."""
    text = (ROOT / page).read_text()
    return {
        f"{page}:{text[: match.start()].count(chr(10)) + 1}": match[1]
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    }


EXAMPLES = docstring_examples()
README_BLOCKS = python_blocks("README.md")


@pytest.fixture
def namespace(tmp_path, monkeypatch) -> dict:
    """A user's variables: data of 12 samples, students, and a compiled model."""
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    x_train, x_test = draw.normal(size=(2, 12, 4)).astype("float32")
    y_train = y_test = np.arange(12, dtype="int32") % 3
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    image_student = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model = keras_lstsd.LSTSD(student)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return {
        "keras": keras,
        "keras_lstsd": keras_lstsd,
        "tf": tf,
        "x_train": x_train,
        "y_train": y_train,
        "x_test": x_test,
        "y_test": y_test,
        "train": tf.data.Dataset.from_tensor_slices((x_train, y_train)),
        "images": draw.integers(0, 256, (12, 32, 32, 3), np.uint8),
        "labels": y_train,
        "first": ["A cat sat."] * 6,
        "second": ["It sat."] * 6,
        "y": np.arange(6) % 2,
        "student": student,
        "image_student": image_student,
        "model": model,
        "word_pieces": WORD_PIECES,
        "teacher": keras.models.clone_model(student),
    }


def short(code: str) -> str:
    """The code with 2 epochs, and with a BERT from random weights."""
    code = re.sub(r"epochs=\d+", "epochs=2", code)
    return re.sub(r'weights="uncased[^"]*"', "vocabulary=word_pieces", code)


@pytest.mark.tensorflow
@pytest.mark.parametrize("place", README_BLOCKS)
def test_readme_code_runs(place, namespace):
    if "bert(" in README_BLOCKS[place]:
        pytest.importorskip("keras_hub")
    exec(short(README_BLOCKS[place]), namespace)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_method_of_build_md_trains_saves_and_equals_plain_training_at_weight_0(
    jit_compile, tmp_path
):
    (code,) = python_blocks("BUILD.md").values()
    assert len(code.splitlines()) < 60
    namespace = {"__name__": __name__}
    exec(code, namespace)
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(22, 4)).astype("float32"), draw.integers(0, 3, 22)

    def trained(method, **arguments):
        keras.utils.set_random_seed(3)
        student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model = method(student, **arguments)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.3), loss, jit_compile=jit_compile)
        return model, model.fit(x, y, batch_size=5, epochs=2, verbose=0).history

    plain, _ = trained(keras_lstsd.Distillation)
    unguided, _ = trained(namespace["BatchMeanSmoothing"], weight=0.0)
    guided, logs = trained(namespace["BatchMeanSmoothing"], weight=0.5)
    for weight, expected in zip(
        unguided.student.get_weights(), plain.student.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, expected)
    assert logs["distillation_loss"][0] > 0
    mean = keras.ops.convert_to_numpy(guided.average.mean)
    np.testing.assert_allclose(mean.sum(), 1, rtol=1e-6)
    assert not np.allclose(mean, 1 / 3)
    guided.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for weight, expected in zip(loaded.get_weights(), guided.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_example_runs(name, namespace, tmp_path, monkeypatch):
    if ".tfds." in name:
        pytest.skip("downloads a data set")
    (tmp_path / "glue/RTE").mkdir(parents=True)
    row = "0\tA cat sat.\tIt sat.\tentailment"
    (tmp_path / "glue/RTE/train.tsv").write_text(f"index\tsentence1\tsentence2\tlabel\n{row}\n")
    (tmp_path / "ptb").mkdir()
    for split in keras_lstsd.data.ptb.SPLITS:
        (tmp_path / f"ptb/ptb.{split}.txt").write_text("a cat sat\n")
    (tmp_path / "cifar-100-binary").mkdir()
    (tmp_path / "cifar-100-binary/train.bin").write_bytes(bytes(3074))
    monkeypatch.setitem(keras_lstsd.data.cifar100.SIZES, "train", 1)
    write_tree(tmp_path / "images", classes=2, each=2)
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records/train-00000-of-00001", [png(0)], [1])
    hidden, head = keras.layers.Dense(4), keras.layers.Dense(10, activation="softmax")
    student = keras.Sequential([keras.Input((4,)), hidden, head])
    model = keras_lstsd.LSTSD(student, num_samples=12)
    model.compile("sgd", "sparse_categorical_crossentropy")
    labels = np.arange(12, dtype="int32") % 10
    train = namespace["tf"].data.Dataset.from_tensor_slices((namespace["x_train"], labels))
    batches = keras_lstsd.data.SampleBatches(namespace["x_train"], labels, seed=1)
    model.make_memory()
    changed = {"x": namespace["x_train"], "y": labels, "y_train": labels, "y_test": labels}
    changed |= {"student": student, "model": model, "train": train}
    changed |= {"first": batches, "second": batches, "ops": keras.ops, "Path": Path}

    def network():
        return keras.models.clone_model(student)

    (tmp_path / "teacher").mkdir()
    network().save_weights(tmp_path / "teacher/epoch_1.weights.h5")
    changed |= {"network": network, "teacher": network(), "big_classifier": network()}
    changed["students"] = [network(), network()]
    code = re.sub(r"epochs=\d{3}", "epochs=2", EXAMPLES[name]).replace("ations=6", "ations=2")
    if "bert_of_layers" in code:
        pytest.importorskip("keras_hub")
        code = code.replace("[2, 4, 6, 8, 10, 12]", "[1, 2]").replace("epochs=6", "epochs=1")
        teacher = keras_lstsd.backbones.bert(2, vocabulary=WORD_PIECES)
        texts = namespace["first"], namespace["second"]
        x = keras_lstsd.data.tokens.encode(teacher.preprocessor, *texts)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        changed |= {"teacher": teacher, "x": x, "y": namespace["y"], "loss": loss}
    # Functions of an example find its variables in one namespace.
    exec(code, globals() | namespace | changed)


def test_every_public_name_has_a_docstring_and_most_an_example():
    for name in keras_lstsd.__all__:
        assert inspect.getdoc(getattr(keras_lstsd, name))
    assert len(EXAMPLES) >= 24


@pytest.mark.parametrize("page", ["README.md", "BUILD.md"])
def test_page_is_below_200_lines(page):
    assert len((ROOT / page).read_text().splitlines()) < 200


@pytest.mark.parametrize("marker", ["demo", "test"])
def test_readme_marks_the_commands_that_ci_reads(marker):
    text = (ROOT / "README.md").read_text()
    (command,) = re.findall(rf"^<!-- {marker} -->\n```bash\n(.+)\n```$", text, re.MULTILINE)
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert not broken


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """A page, or the comments and strings of a source file, each with its first line."""
    text = path.read_text()
    if path.suffix == ".md":
        yield 1, re.sub(r"`[^`\n]*`", "", text)  # flags and names are quoted as they are
        return
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            yield token.start[0], token.string


def test_words_are_plain_technical_english():
    found = []
    for path in PAGES + SOURCES:
        for first, text in prose(path):
            for pattern, plain in GLOSSARY.items():
                for match in re.finditer(rf"\b({pattern})\b", text, re.IGNORECASE):
                    line = first + text[: match.start()].count("\n")
                    place = f"{path.relative_to(ROOT)}:{line}"
                    found.append(f"{place}: {match[0]!r}, write: {plain}")
    assert not found, "\n".join(["Words outside the glossary:", *found])
