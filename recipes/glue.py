"""GLUE tasks with a CNN from random weights: the methods side by side.

    KERAS_BACKEND=jax python -m recipes.glue --data_dir=glue --task=rte,mrpc,cola --method=all

Defaults are the paper's settings (Jiang et al. 2020, Table 2): plain SGD at 8e-3, batch 32, 50
epochs, T = 1. `--data_dir` holds RTE/train.tsv and so on; without it tensorflow-datasets is asked.
Runs that are finished are kept in --output_dir and not repeated. The paper prints no sizes of its
CNN; these are Kim's with word vectors of 32. Scores: see BUILD.md.

On 2 CPU cores with JAX a run of 50 epochs takes 24 s (RTE), 22 s (MRPC) or 20 s (CoLA): 35 minutes
for six methods, five seeds and these three tasks. What bounds it is the arithmetic of the
convolutions, 0.6 GFLOP a step at 80 words, padding included; hence short word vectors (a tenth of
Kim's 300 is a tenth of the arithmetic), and rows cut at a length that a quarter of the sentences
exceed, at the most. Words are looked up once, batches are gathered from memory, and JAX compiles
the step as a whole; TensorFlow spends more per step on the same network, most of all where
sentences are short.
"""

from functools import partial
from pathlib import Path

import keras
from absl import app, flags, logging

from keras_lstsd.backbones import text_cnn
from keras_lstsd.data import glue, words
from keras_lstsd.methods.registry import METHODS
from recipes import comparison

TASK = flags.DEFINE_string("task", "rte", "Tasks, comma-separated, or all.")
NETWORK = flags.DEFINE_enum("network", "cnn", ["cnn"], "The student.")
METHOD = flags.DEFINE_string("method", "vanilla,lstsd", "Methods, comma-separated, or all.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with RTE/train.tsv and so on; none takes tensorflow-datasets."
)
SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds 0, 1, ... to train with.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 50, "Epochs of each run.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Samples a step.", lower_bound=1)
OPTIMIZER = flags.DEFINE_enum("optimizer", "sgd", ["sgd", "adam"], "Plain SGD, or Adam.")
LEARNING_RATE = flags.DEFINE_float("learning_rate", 8e-3, "Learning rate.")
EMBEDDING_DIM = flags.DEFINE_integer("embedding_dim", 32, "Entries of a word vector.")
FILTERS = flags.DEFINE_integer("filters", 100, "Filters of each of the widths 3, 4 and 5.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/glue", "Where results are kept; the same again resumes."
)
SMOKE = flags.DEFINE_bool("smoke", False, "64 sentences, two epochs, one seed: does it run?")

# Words that a row holds: at least three in four of the task are not longer; padding costs time.
LENGTHS = {"rte": 80, "mrpc": 56, "cola": 16, "sst2": 24}

# Jiang et al. 2020, Table 2, CNN: accuracy for RTE, MRPC and SST-2, Matthews for CoLA.
PAPER = {
    "vanilla": {"rte": 53.79, "mrpc": 70.83, "sst2": 70.99, "cola": 9.70},
    "mean_teacher": {"rte": 54.87, "mrpc": 71.81, "sst2": 70.41, "cola": 9.32},
    "snapshot_ensemble": {"rte": 55.60, "mrpc": 70.83, "sst2": 71.67, "cola": 10.51},
    "temporal_ensembling": {"rte": 54.87, "mrpc": 72.06, "sst2": 70.53, "cola": 11.27},
    "snapshot_distillation": {"rte": 56.68, "mrpc": 73.77, "sst2": 71.67, "cola": 12.81},
    "lstsd": {"rte": 57.40, "mrpc": 73.28, "sst2": 72.36, "cola": 14.50},
}


class Encoded:
    """A task as word ids, train and dev, with the vocabulary of the training sentences."""

    def __init__(self, task: str, data_dir: str | None, rows: int | None = None):
        train = glue.load(task, "train", data_dir)
        dev = glue.load(task, "dev", data_dir)
        vocabulary = words.build_vocabulary(train.first[:rows] + (train.second or [])[:rows])
        self.vocabulary_size = words.FIRST_WORD + len(vocabulary)
        self.train, self.dev = (
            words.encode(
                split.first[:rows],
                split.second and split.second[:rows],
                vocabulary,
                LENGTHS[task],
            )
            for split in (train, dev)
        )
        self.texts = train.texts[:rows]
        self.train_labels, self.dev_labels = train.labels[:rows], dev.labels[:rows]


def train(run: dict, folder: Path, callbacks: list, data: Encoded, settings: dict) -> dict:
    """Trains one method with one seed; the score is its metric on dev after the last epoch."""
    student = text_cnn(
        data.vocabulary_size,
        num_classes=2,
        length=data.train.shape[1],
        embedding_dim=settings["embedding_dim"],
        filters=settings["filters"],
    )
    method = METHODS[run["method"]]
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    model = method.cls(student, num_samples=len(data.train), **method.settings(epochs))
    optimizer = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[settings["optimizer"]]
    comparison.compiled(model, method, optimizer, settings["learning_rate"], epochs, batch_size)
    model.fit(
        data.train,
        keras.utils.to_categorical(data.train_labels, 2),
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=[*comparison.dynamics(model, data.train_labels, folder), *callbacks],
    )
    predictions = model.predict(data.dev, batch_size=256, verbose=0).argmax(-1)
    return {"score": glue.score(run["task"], data.dev_labels, predictions)}


def main(argv):
    comparison.check_command(argv)
    logging.set_verbosity(logging.INFO)
    tasks = comparison.names("task", TASK.value, list(glue.TASKS))
    methods = comparison.names("method", METHOD.value, list(METHODS))
    settings = {
        flag.name: flag.value
        for flag in (EPOCHS, BATCH_SIZE, OPTIMIZER, LEARNING_RATE, EMBEDDING_DIM, FILTERS)
    }
    if SMOKE.value:
        settings["epochs"] = 2
    seeds = 1 if SMOKE.value else SEEDS.value
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    results = comparison.Results(folder / "results.json", settings)
    texts = {}
    for task in tasks:
        data = Encoded(task, DATA_DIR.value, rows=64 if SMOKE.value else None)
        texts[task] = data.texts
        runs = [
            {"task": task, "method": method, "seed": seed}
            for seed in range(seeds)
            for method in methods
        ]
        one = partial(train, data=data, settings=settings)
        done = comparison.train_all(runs, results, one, "glue")
        if not done:
            break
    lines = []
    for task in tasks:
        paper = {method: row[task] for method, row in PAPER.items()}
        metric = "Matthews correlation" if glue.TASKS[task].metric == "matthews" else "accuracy"
        title = f"{glue.FOLDERS[task]}, {metric} on dev (%), {NETWORK.value}"
        table = comparison.method_table(results, methods, paper, task=task)
        lines += [f"{title}:", "", table, ""]
        if task in texts:
            names = glue.TASKS[task].classes
            comparison.write_report(results, title, methods, paper, texts[task], names, task=task)
    table = "\n".join(lines)
    results.path.with_name("table.md").write_text(table)
    print(f"\n{table}\nResults of each run: {results.path}")
    return 0 if done else comparison.INTERRUPTED


if __name__ == "__main__":
    app.run(main)
