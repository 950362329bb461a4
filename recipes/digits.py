"""Digits with wrong labels: compares the methods on a small classifier.

    python -m recipes.digits

Trains a perceptron (64-256-256-10) on 900 real 8x8 digits, 40 % of them with a wrong label. The
score is the accuracy on 897 clean test digits after the last epoch; no test image is used before.
For a seed, all methods have the same wrong labels, initial weights and batches.

With `--labels_per_class` only so many digits of each class have a label. Plain training learns from
these alone; the others are guided too.

On 2 CPU cores, 5 seeds take about a minute (`--method=all`: 30 minutes). Scores:
`recipes/results/digits.md`.
"""

from functools import partial
from pathlib import Path

import keras
from absl import app, flags

from keras_lstsd.data import digits, label_noise
from recipes import metrics, options, runs, tables
from recipes.methods import METHODS
from recipes.networks import perceptron

BATCH_SIZE = 64
# Of the two hidden layers of the network that teaches KD, RCO and ProKT.
TEACHER_UNITS = 1024

METHOD = flags.DEFINE_string("method", "vanilla,lstsd", "Methods with commas between, or all.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, ...", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs of each run.", lower_bound=1)
SAMPLES = flags.DEFINE_integer("samples", None, "Trains on the first digits only.", 1)
WRONG_LABELS = flags.DEFINE_float("wrong_labels", 0.4, "Share of wrong training labels.", 0.0, 1.0)
LABELS_PER_CLASS = flags.DEFINE_integer(
    "labels_per_class", None, "Labels that each class keeps; by default all.", 1
)
NOISE = flags.DEFINE_bool(
    "noise", False, "Noise of 0.15 on the images and a dropout of 0.5; Laine and Aila 2016."
)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/digits", "Folder of the results; the same folder resumes."
)
SMOKE = flags.DEFINE_bool("smoke", False, "Two seeds and three epochs, to test the recipe.")


def train(
    run: dict,
    folder: Path,
    callbacks: list,
    epochs: int,
    wrong_labels: float,
    samples: int | None = None,
    labels_per_class: int | None = None,
    noise: bool = False,
) -> dict:
    """Trains one method with one seed; the score is the accuracy on the clean test digits in %."""
    (x_train, y_train), (x_test, y_test) = digits.load()
    x_train, y_train = x_train[:samples], y_train[:samples]
    labels, wrong = label_noise.with_wrong_labels(
        y_train, wrong_labels, digits.NUM_CLASSES, run["seed"]
    )
    y = keras.utils.to_categorical(labels, digits.NUM_CLASSES)
    if labels_per_class is not None:
        y[label_noise.hidden_labels(labels, labels_per_class, run["seed"])] = 0
    method = METHODS[run["method"]]

    def compiled(model, method):
        return runs.compiled(
            model,
            method,
            keras.optimizers.Adam,
            1e-3,
            num_samples=len(x_train),
            epochs=epochs,
            batch_size=BATCH_SIZE,
        )

    def fit(model, callbacks):
        model.fit(
            x_train,
            y,
            batch_size=BATCH_SIZE,
            epochs=epochs,
            verbose=0,
            callbacks=callbacks,
        )

    plain = METHODS["vanilla"]
    teacher = runs.teacher_of(
        method,
        folder.parent,
        run["seed"],
        lambda: compiled(plain.wrap(perceptron(TEACHER_UNITS), len(x_train)), plain),
        fit,
    )
    # A method with a teacher starts from the weights of one without.
    keras.utils.set_random_seed(run["seed"])
    model = method.wrap(
        perceptron(noise=noise), len(x_train), teacher=teacher, **method.settings(epochs)
    )
    compiled(model, method)
    fit(model, [*runs.dynamics(model, y, folder), *callbacks])
    outcome = metrics.measures(y_test, model.predict(x_test, verbose=0))
    if wrong.any():
        outcome["detection"] = runs.detection(model, x_train, labels, wrong, folder)
    return outcome


def main(argv):
    options.check_command(argv)
    methods = options.names("method", METHOD.value, list(METHODS))
    seeds, epochs = (2, 3) if SMOKE.value else (SEEDS.value, EPOCHS.value)
    settings = {
        "epochs": epochs,
        "wrong_labels": WRONG_LABELS.value,
        "samples": SAMPLES.value,
        "labels_per_class": LABELS_PER_CLASS.value,
        "noise": NOISE.value,
    }
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    results = runs.Results(folder / "results.json", settings)
    share = f"{WRONG_LABELS.value:.0%}".replace("%", " %")
    runs.progress(
        f"Trains on {min(SAMPLES.value or 900, 900)} digits, {share} of them with a wrong label"
        + f", {LABELS_PER_CLASS.value} labels of each class" * bool(LABELS_PER_CLASS.value)
        + "; tests on 897 clean digits."
    )
    todo = [{"method": method, "seed": seed} for seed in range(seeds) for method in methods]
    done = runs.train_all(todo, results, partial(train, **settings))
    tables.write_report(
        results,
        f"Digits, {WRONG_LABELS.value:.0%} wrong labels",
        methods,
        samples=digits.load()[0][0],
    )
    lines = tables.detection_lines(results, methods)
    lines += [f"Accuracy on the clean test digits (%).\n{tables.READING}", ""]
    lines += [tables.method_table(results, methods), ""]
    tables.present(results, "table", "\n".join(lines), done)
    return 0 if done else runs.INTERRUPTED


if __name__ == "__main__":
    app.run(main)
