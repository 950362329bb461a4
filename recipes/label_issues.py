"""Finds wrong labels: our scores and cleanlab's, which labels, how many, and training without them.

    pip install "keras-lstsd[compare]"
    python -m recipes.label_issues
    KERAS_BACKEND=jax python -m recipes.label_issues --data=mrpc,cola --data_dir=glue

Training labels become wrong by one of three models of noise:

- uniform: another class, each with the same probability;
- pairs: the class that a weak network confuses most with the sample's class;
- samples: what a weak network confuses this sample with, and where it is least certain.

The weak network is the same network after a twentieth of the epochs on the correct labels.

Each method trains once on these labels. Samples are ranked by their loss after the training, by
the mean confidence and the mean margin over the epochs, and by cleanlab on the predictions after
the training. `cross_validation` is what cleanlab is made for: plain training on five folds, which
costs five trainings. The sets of labels that the rankings call wrong are compared with the truth.
Then plain training starts again without the labels that were found, and with those suggested.
`dropping` and `lstsd_dropping` stop to count such labels after a quarter of the epochs.

Data: `digits` (the perceptron of `recipes.digits`); tasks of GLUE (the text CNN of `recipes.glue`
with Adam at 1e-3, batch 32, 20 epochs); `cifar100` (the first 10,000 images, ResNet-20 with Adam at
1e-3, batch 128, 60 epochs, without augmentation, so that it fits them). Scores on the clean test
split: accuracy, CoLA Matthews. Results: `recipes/results/label_issues.md`. On 2 CPU cores, a seed
of the digits takes 20 minutes. CIFAR-100 is for a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags

from keras_lstsd import outputs
from keras_lstsd.data import cifar100, digits, glue, label_noise
from keras_lstsd.statistics import paired_difference, spread
from recipes import metrics, options, runs, tables, texts
from recipes.methods import METHODS
from recipes.networks import perceptron, student

NOISE = ("uniform", "pairs", "samples")
# Plain training with tables of samples comes first: the others are compared with it.
TABLES = ("lstsd_without_teachers", "lstsd", "temporal_ensembling", "ps_kd", "elr")
# These are not asked for a ranking. The last ones stop to count labels that they find wrong.
UNRANKED = ("mean_teacher", "dropping", "lstsd_dropping")
FOLDS = 5
# Of the predictions after a training and of those of cross-validation.
CLEANLAB = ("self_confidence", "normalized_margin")
RANKINGS = ("loss", "confidence", "margin", *(f"cleanlab {name}" for name in CLEANLAB))
# The loss is the negative logarithm of that confidence after the training.
SAME = "cleanlab self_confidence"
READING = """
Means over the seeds +- standard deviation, in %. ROC AUC: how often a wrong label ranks before a
correct one; difference: to cleanlab's self_confidence on five folds, +- standard error. Precision:
the share of wrong labels among the first n, where n labels are wrong; the rest of n is missed.

Sets: found: how many labels are called wrong, for 100 wrong ones (of labels as given: for 100
labels). Right: how often the label suggested for a wrong one that was found is the correct one.
Test: the score of that training; difference: to plain training, +- standard error. Without: the
score of plain training without the labels found (by the first set of a method). Relabelled: of
plain training with the labels suggested.
"""

DATA = flags.DEFINE_string(
    "data", "digits", "digits, cifar100, or tasks of GLUE, with commas between."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with MRPC/train.tsv and so on, or with the files of CIFAR-100; by default "
    "tensorflow-datasets.",
)
MODELS = flags.DEFINE_string("noise", "all", f"{', '.join(NOISE)}, with commas between, or all.")
WRONG_LABELS = flags.DEFINE_list("wrong_labels", ["0", "0.2", "0.4"], "Shares of wrong labels.")
METHOD = flags.DEFINE_string("method", "all", "Methods with commas between, or all.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, ...", lower_bound=1)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/label_issues", "Folder of the results; the same folder resumes."
)
SMOKE = flags.DEFINE_bool("smoke", False, "One seed, one share and three epochs, for a test.")


@dataclass
class Task:
    """Data with correct labels, and how a network trains on them."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    network: Callable[[], keras.Model]
    epochs: int
    batch_size: int
    score: Callable[[np.ndarray, np.ndarray], float]

    def trained(
        self, method: str, seed: int, rows: Any, y: np.ndarray, callbacks=(), **arguments: Any
    ) -> Any:
        """A network trained on rows of x with these labels, from the first weights of the seed."""
        described, x = METHODS[method], self.x[rows]
        keras.utils.set_random_seed(seed)
        settings = described.settings(self.epochs) | arguments
        model = described.wrap(self.network(), len(x), **settings)
        runs.compiled(
            model,
            described,
            keras.optimizers.Adam,
            1e-3,
            num_samples=len(x),
            epochs=self.epochs,
            batch_size=self.batch_size,
        )
        one_hot = keras.utils.to_categorical(y, self.classes)
        options = {"batch_size": self.batch_size, "epochs": self.epochs, "verbose": 0}
        model.fit(x, one_hot, callbacks=list(callbacks), **options)
        return model

    def predict(self, model: keras.Model, rows: Any = slice(None)) -> np.ndarray:
        """Probabilities of rows of x."""
        return runs.probabilities(model, self.x[rows]).astype("float64")

    def test_score(self, model: keras.Model) -> float:
        """The score on the test split in %."""
        predicted = model.predict(self.x_test, 500, verbose=0).argmax(-1)
        return 100 * self.score(self.y_test, predicted)

    def noisy(self, noise: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels of which a share is wrong, and which are."""
        confusion = None
        if noise != "uniform":
            keras.utils.set_random_seed(seed)
            network = self.network()
            from_logits = outputs.ends_in_logits(network)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
            network.compile(keras.optimizers.Adam(1e-3), loss)
            options = {"batch_size": self.batch_size, "verbose": 0}
            network.fit(self.x, self.y, epochs=max(1, self.epochs // 20), **options)
            confusion = network.predict(self.x, 500, verbose=0)
            if from_logits:
                confusion = keras.ops.convert_to_numpy(keras.ops.softmax(confusion))
        if noise == "pairs":
            others = confusion * (np.arange(self.classes) != self.y[:, None])
            sums = np.zeros((self.classes, self.classes))
            np.add.at(sums, self.y, others)
            confusion = np.eye(self.classes)[sums.argmax(-1)]
        return label_noise.with_wrong_labels(self.y, share, self.classes, seed, confusion)


def task_of(name: str, data_dir: str | None, smoke: bool) -> Task:
    """The data by name."""
    if name == "digits":
        (x, y), (x_test, y_test) = digits.load()
        network, classes, score = perceptron, digits.NUM_CLASSES, metrics.accuracy
        epochs, batch_size = 60, 64
    elif name == "cifar100":
        (x, y), (x_test, y_test) = (cifar100.load(split, data_dir) for split in ("train", "test"))
        x, y = x[:10_000], y[:10_000]
        network, classes, score = partial(student, "resnet20"), 100, metrics.accuracy
        epochs, batch_size = 60, 128
    else:
        described = glue.TASKS[name]
        train, dev = (
            glue.load(name, split, data_dir) for split in ("train", described.dev_splits[0])
        )
        settings = {"batch_size": 32, "embedding_dim": 32, "filters": 100}
        encoder = texts.Words(name, train, settings)
        x, y, x_test, y_test = encoder.encode(train), train.labels, encoder.encode(dev), dev.labels
        network, classes, score = encoder.student, len(described.classes), metrics.accuracy
        epochs, batch_size = 20, 32
        if name == "cola":
            score = metrics.matthews
    if smoke:
        x, y, epochs = x[:100], y[:100], 3
    return Task(x, y, x_test, y_test, classes, network, epochs, batch_size, score)


def train(run: dict, folder: Path, callbacks: list, task: Task) -> dict:
    """Trains one method on wrong labels, and measures what it finds."""
    # A run has up to seven networks.
    keras.backend.clear_session()
    labels, wrong = task.noisy(run["noise"], run["share"], run["seed"])
    everything = np.arange(len(labels))
    if run["method"] in UNRANKED:
        method, arguments, sets = run["method"], {}, {}
        if method == "lstsd_dropping":
            method, arguments = "lstsd", METHODS["dropping"].length(task.epochs)
        model = task.trained(method, run["seed"], everything, labels, callbacks, **arguments)
        if model.drop_issues_after:
            margins = keras.ops.convert_to_numpy(model.label_margins.rows)[: len(labels), 0]
            sets["drop_issues_after"] = agreement(margins < 0, wrong)
        score = task.test_score(model)
        return {"trained": score, "sets": sets, "score": score}
    if run["method"] == "cross_validation":
        predicted = cross_validated(task, labels, run["seed"])
        scores, sets, suggested = of_cleanlab(predicted, labels), {}, predicted.argmax(-1)
        outcome = {}
    else:
        dynamics = runs.Dynamics(labels, folder / "dynamics.npz")
        model = task.trained(run["method"], run["seed"], everything, labels, [dynamics, *callbacks])
        predicted, issues = task.predict(model), dynamics.find_label_issues()
        outcome = {"trained": task.test_score(model)}
        scores = {"loss": predicted[everything, labels], "confidence": dynamics.confidence}
        scores |= {"margin": dynamics.margin} | of_cleanlab(predicted, labels)
        del scores[SAME]
        sets, suggested = {"find_label_issues": issues["is_label_issue"]}, issues["predicted_label"]
    from cleanlab.filter import find_label_issues as cleanlab_issues

    sets["cleanlab"] = cleanlab_issues(labels, predicted)
    if wrong.any():
        outcome["rankings"] = {
            name: metrics.ranking(values, wrong) for name, values in scores.items()
        }
    outcome["sets"] = {name: agreement(found, wrong) for name, found in sets.items()}
    found = next(iter(sets.values()))
    if (found & wrong).any():
        outcome["suggested"] = 100 * float((suggested == task.y)[found & wrong].mean())
    again = partial(task.trained, "vanilla", run["seed"])
    outcome["without"] = task.test_score(again(~found, labels[~found]))
    corrected = np.where(found, suggested, labels)
    outcome["relabelled"] = task.test_score(again(everything, corrected))
    return outcome | {"score": outcome.get("trained", outcome["without"])}


def cross_validated(task: Task, labels: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities of each sample by plain training on the other folds."""
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    predicted = np.zeros((len(labels), task.classes))
    for number in range(FOLDS):
        model = task.trained("vanilla", seed, fold != number, labels[fold != number])
        predicted[fold == number] = task.predict(model, fold == number)
    return predicted


def of_cleanlab(predicted: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """cleanlab's scores of the labels."""
    from cleanlab.rank import get_label_quality_scores

    return {
        f"cleanlab {name}": get_label_quality_scores(labels, predicted, method=name)
        for name in CLEANLAB
    }


def agreement(found: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """How many labels were found for each wrong one, and the F1 score, in %.

    Where none is wrong: how many were found of all.
    """
    if not wrong.any():
        return {"found": 100 * float(found.mean())}
    return {
        "found": 100 * float(found.sum() / wrong.sum()),
        "f1": 200 * float((found & wrong).sum() / (found.sum() + wrong.sum())),
    }


def main(argv):
    options.check_command(argv)
    check_cleanlab()
    names = options.names("data", DATA.value, ["digits", "cifar100", *glue.TASKS])
    methods = options.names("method", METHOD.value, [*TABLES, *UNRANKED, "cross_validation"])
    models = options.names("noise", MODELS.value, NOISE)
    shares, seeds = ([0.4], 1) if SMOKE.value else ([*map(float, WRONG_LABELS.value)], SEEDS.value)
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    results = runs.Results(folder / "results.json", {})
    cells = [
        {"data": name, "noise": noise if share else "uniform", "share": share}
        for name in names
        for share in shares
        for noise in (models if share else models[:1])
    ]
    done = True
    for name in names:
        task = task_of(name, DATA_DIR.value, SMOKE.value)
        todo = [
            cell | {"method": method, "seed": seed}
            for seed in range(seeds)
            for cell in cells
            if cell["data"] == name
            for method in methods
        ]
        done = done and runs.train_all(todo, results, partial(train, task=task))
    parts = [part for cell in cells for part in (*tables_of(results, cell, methods), "")]
    tables.present(results, "table", "\n".join([READING.strip(), "", *parts]), done)
    return 0 if done else runs.INTERRUPTED


def check_cleanlab() -> None:
    """Asks for cleanlab where it is not installed."""
    if find_spec("cleanlab") is None:
        raise SystemExit(
            "The comparison needs cleanlab, which is not installed. "
            'Write: pip install "keras-lstsd[compare]".'
        )


def tables_of(results: runs.Results, cell: dict, methods: list[str]) -> list[str]:
    """The tables of one kind of wrong labels."""
    title = f"{cell['data']}, {100 * cell['share']:.0f} % wrong labels"
    lines = [f"## {title}, {cell['noise']}" if cell["share"] else f"## {cell['data']}, as given"]
    folds = results.scores("rankings", SAME, "auc", method="cross_validation", **cell)
    rows = []
    for method in methods:
        for ranking in RANKINGS:
            values = [
                results.scores("rankings", ranking, figure, method=method, **cell)
                for figure in ("auc", "precision")
            ]
            if values[0]:
                auc, precision = (spread([*of_seed.values()]) for of_seed in values)
                difference = paired_difference(values[0], folds)
                rows.append([method, ranking, auc, difference, precision])
    if rows:
        header = ["trained by", "ranked by", "ROC AUC", "difference to five folds", "precision"]
        lines += ["", tables.markdown(header, rows)]
    plain = results.scores("trained", method=TABLES[0], **cell)
    rows = []
    for method in methods:
        for found in ("find_label_issues", "drop_issues_after", "cleanlab", "none"):
            numbers = [
                results.scores("sets", found, figure, method=method, **cell)
                for figure in ("found", "f1")
            ]
            if not numbers[0] and (found, method) != ("none", "mean_teacher"):
                continue
            row = [method, found, *(spread([*it.values()]) if it else "" for it in numbers)]
            # The set that the network was trained again with.
            first = found != "cleanlab" or method == "cross_validation"
            for figure in ("suggested", "trained", "without", "relabelled"):
                values = results.scores(figure, method=method, **cell) if first else {}
                row.append(spread([*values.values()]) if values else "")
                if figure in ("trained", "without"):
                    row.append(paired_difference(values, plain) if values else "")
            rows.append(row)
    header = ["trained by", "set of", "found", "F1", "right", "test", "difference"]
    header += ["without", "difference", "relabelled"]
    return [*lines, "", tables.markdown(header, rows)]


if __name__ == "__main__":
    app.run(main)
