"""GLUE tasks with a CNN from random weights or with BERT: the methods side by side.

    KERAS_BACKEND=jax python -m recipes.glue --data_dir=glue --task=rte,mrpc,cola --method=all
    python -m recipes.glue --network=bert --bert=uncased_L-12_H-768_A-12 --data_dir=glue

Defaults are the paper's settings (Jiang et al. 2020, Table 2). The CNN: plain SGD at 8e-3, batch
32; BERT: Adam at 5e-5, batch 64; both 50 epochs, T = 1. `--data_dir` holds RTE/train.tsv and so
on; without it tensorflow-datasets is asked. Runs that are finished are kept in --output_dir and
not repeated. The paper prints no sizes of its CNN; these are Kim's with word vectors of 32.
Scores: see BUILD.md.

BERT needs the extra `text`. Its weights (`--bert`) come from a folder in Hugging Face's layout or
in Google's, or, by the name of a preset, from the net; without them a small network from random
weights is trained (`--bert_size=tiny`), on the word pieces of `--vocabulary`, or on the words of
the training sentences. Texts are tokenised once a task; batches are cut to their longest text, or
padded to --sequence_length with --nodynamic_length.

On 2 CPU cores with JAX a run of 50 epochs of the CNN takes 24 s (RTE), 22 s (MRPC) or 20 s (CoLA):
35 minutes for six methods, five seeds and these three tasks. What bounds it is the arithmetic of
the convolutions, 0.6 GFLOP a step at 80 words, padding included; hence short word vectors (a tenth
of Kim's 300 is a tenth of the arithmetic), and rows cut at a length that a quarter of the
sentences exceed, at the most. Words are looked up once, batches are gathered from memory, and JAX
compiles the step as a whole; TensorFlow spends more per step on the same network, most of all
where sentences are short.
"""

import statistics
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
from absl import app, flags, logging

from keras_lstsd import backbones
from keras_lstsd.data import SampleBatches, TokenBatches, digits, glue, tokens, words
from keras_lstsd.methods.registry import METHODS
from recipes import comparison

TASK = flags.DEFINE_string("task", "rte", "Tasks, comma-separated, or all.")
NETWORK = flags.DEFINE_enum("network", "cnn", ["cnn", "bert"], "The student.")
METHOD = flags.DEFINE_string("method", "vanilla,lstsd", "Methods, comma-separated, or all.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with RTE/train.tsv and so on; none takes tensorflow-datasets."
)
SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds 0, 1, ... to train with.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 50, "Epochs of each run.", lower_bound=1)
SAMPLES = flags.DEFINE_integer("samples", None, "Trains on the first so many of each task.", 1)
WRONG_LABELS = flags.DEFINE_float(
    "wrong_labels", 0.0, "Share of training labels made wrong, by the seed.", 0.0, 1.0
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Samples a step; none: the paper's.", 1)
OPTIMIZER = flags.DEFINE_enum(
    "optimizer", None, ["sgd", "adam"], "Plain SGD, or Adam; none: the paper's."
)
LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Learning rate; none: the paper's.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", None, "XLA; none leaves it to Keras.")
EMBEDDING_DIM = flags.DEFINE_integer("embedding_dim", 32, "CNN: entries of a word vector.")
FILTERS = flags.DEFINE_integer("filters", 100, "CNN: filters of each of the widths 3, 4 and 5.")
BERT = flags.DEFINE_string("bert", None, "BERT: folder with its weights, or name of a preset.")
BERT_SIZE = flags.DEFINE_enum(
    "bert_size", "tiny", list(backbones.BERT_SIZES), "BERT: its size where weights are random."
)
VOCABULARY = flags.DEFINE_string("vocabulary", None, "BERT: file with a word piece a line.")
SEQUENCE_LENGTH = flags.DEFINE_integer("sequence_length", 128, "BERT: tokens a text, at most.", 8)
DYNAMIC_LENGTH = flags.DEFINE_bool(
    "dynamic_length", True, "BERT: cuts batches to their longest text, in multiples of 16."
)
SUBMIT = flags.DEFINE_bool("submit", False, "Writes predictions of the test split for GLUE.")
EXPORT = flags.DEFINE_bool("export", False, "Writes each trained student for serving.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/glue", "Where results are kept; the same again resumes."
)
SMOKE = flags.DEFINE_bool("smoke", False, "64 sentences, two epochs, one seed: does it run?")

# The paper's settings, and what else decides the scores of a network.
DEFAULTS = {
    "cnn": {"batch_size": 32, "optimizer": "sgd", "learning_rate": 8e-3},
    "bert": {"batch_size": 64, "optimizer": "adam", "learning_rate": 5e-5},
}
OWN_FLAGS = {
    "cnn": (EMBEDDING_DIM, FILTERS),
    "bert": (BERT, BERT_SIZE, VOCABULARY, SEQUENCE_LENGTH, DYNAMIC_LENGTH, JIT_COMPILE),
}

# Words that a row of the CNN holds: at least three in four of the task are not longer; padding
# costs time. Those of the second line are guesses, their files were not at hand.
LENGTHS = {"rte": 80, "mrpc": 56, "cola": 16, "sst2": 24}
LENGTHS |= {"qnli": 64, "qqp": 32, "mnli": 48, "wnli": 48}

# Jiang et al. 2020, Table 2: accuracy for RTE, MRPC and SST-2, Matthews for CoLA.
PAPER_TASKS = ("rte", "mrpc", "sst2", "cola")
PAPER = {
    "cnn": {
        "vanilla": (53.79, 70.83, 70.99, 9.70),
        "mean_teacher": (54.87, 71.81, 70.41, 9.32),
        "snapshot_ensemble": (55.60, 70.83, 71.67, 10.51),
        "temporal_ensembling": (54.87, 72.06, 70.53, 11.27),
        "snapshot_distillation": (56.68, 73.77, 71.67, 12.81),
        "lstsd": (57.40, 73.28, 72.36, 14.50),
    },
    "bert": {
        "vanilla": (72.20, 86.03, 93.00, 58.54),
        "mean_teacher": (70.39, 85.29, 92.89, 61.75),
        "snapshot_ensemble": (73.29, 86.76, 92.32, 59.53),
        "temporal_ensembling": (71.50, 85.78, 93.11, 60.56),
        "snapshot_distillation": (74.01, 87.25, 93.12, 60.09),
        "lstsd": (74.73, 89.22, 93.35, 61.59),
    },
}
NAMES = {"accuracy": "accuracy", "f1": "F1", "matthews": "Matthews correlation"}


class Words:
    """The CNN's side of a task: words of the training sentences, each with a number."""

    def __init__(self, task: str, train: glue.Examples, settings: dict):
        self.task = task
        self.settings = settings
        self.vocabulary = words.build_vocabulary(train.first + (train.second or []))

    def encode(self, split: glue.Examples) -> np.ndarray:
        return words.encode(split.first, split.second, self.vocabulary, LENGTHS[self.task])

    def batches(self, x: np.ndarray, y: np.ndarray) -> SampleBatches:
        return SampleBatches(x, y, batch_size=self.settings["batch_size"])

    def student(self) -> keras.Model:
        return backbones.text_cnn(
            words.FIRST_WORD + len(self.vocabulary),
            num_classes=len(glue.TASKS[self.task].classes),
            length=LENGTHS[self.task],
            embedding_dim=self.settings["embedding_dim"],
            filters=self.settings["filters"],
        )


class Pieces:
    """BERT's side of a task: word pieces, each with a number."""

    def __init__(self, task: str, train: glue.Examples, settings: dict):
        self.task = task
        self.settings = settings
        self.vocabulary = settings["vocabulary"]
        if self.vocabulary is None and settings["bert"] is None:
            known = words.build_vocabulary(train.first + (train.second or []))
            self.vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]
        self.preprocessor = self.student().preprocessor

    def encode(self, split: glue.Examples) -> dict[str, np.ndarray]:
        begin = time.monotonic()
        x = tokens.encode(self.preprocessor, split.first, split.second)
        seconds = time.monotonic() - begin
        cut = np.mean(x["padding_mask"].sum(-1) == self.settings["sequence_length"])
        logging.info(
            "%s: %d texts tokenised in %.1f s, %.0f a second; %.1f %% fill all %d tokens.",
            *(self.task, len(split.first), seconds, len(split.first) / seconds),
            *(100 * cut, self.settings["sequence_length"]),
        )
        return x

    def batches(self, x: dict, y: np.ndarray) -> TokenBatches:
        multiple = 16 if self.settings["dynamic_length"] else None
        batches = TokenBatches(x, y, multiple=multiple, batch_size=self.settings["batch_size"])
        logging.info(
            "%s: %.1f %% of the positions in training hold padding; %.1f %% where all are of %d "
            "tokens.",
            *(self.task, 100 * batches.padding_share()),
            *(100 * (1 - x["padding_mask"].mean()), self.settings["sequence_length"]),
        )
        return batches

    def student(self) -> keras.Model:
        return backbones.bert(
            len(glue.TASKS[self.task].classes),
            weights=self.settings["bert"],
            vocabulary=self.vocabulary,
            size=self.settings["bert_size"],
            sequence_length=self.settings["sequence_length"],
        )


class Data:
    """A task as its network takes it: training data, and inputs and labels of other splits."""

    def __init__(self, task: str, data_dir: str | None, settings: dict, network: str):
        described = glue.TASKS[task]
        train = glue.load(task, "train", data_dir).head(settings["samples"])
        encoder = {"cnn": Words, "bert": Pieces}[network](task, train, settings)
        self.student, self.batches = encoder.student, encoder.batches
        self.train, self.x_train = train, encoder.encode(train)
        self.inputs, self.labels = {}, {}
        for split in described.dev_splits + described.test_splits * SUBMIT.value:
            examples = glue.load(task, split, data_dir).head(64 if SMOKE.value else None)
            self.inputs[split] = encoder.encode(examples)
            self.labels[split] = examples.labels


def train(run: dict, folder: Path, callbacks: list, data: Data, settings: dict) -> dict:
    """Trains one method with one seed; the score is the task's on dev after the last epoch."""
    task, method = run["task"], METHODS[run["method"]]
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    classes = len(glue.TASKS[task].classes)
    labels, wrong = digits.with_wrong_labels(
        data.train.labels, settings["wrong_labels"], classes, run["seed"]
    )
    batches = data.batches(data.x_train, keras.utils.to_categorical(labels, classes))
    model = method.cls(data.student(), len(labels), **method.settings(epochs))
    optimizer = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[settings["optimizer"]]
    jit_compile = "auto" if JIT_COMPILE.value is None else JIT_COMPILE.value
    comparison.compiled(
        model,
        method,
        optimizer,
        settings["learning_rate"],
        epochs,
        batch_size,
        jit_compile=jit_compile,
    )
    callbacks = [*comparison.dynamics(model, labels, folder), *callbacks]
    model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks)
    scores = {}
    for split, inputs in data.inputs.items():
        predictions = model.predict(inputs, batch_size=256, verbose=0).argmax(-1)
        if split in glue.TASKS[task].dev_splits:
            scores[split] = glue.scores(task, data.labels[split], predictions)
        else:
            glue.write_predictions(folder, task, split, predictions)
    if EXPORT.value:
        model.export(folder / "serving", verbose=False)
    first, *_ = scores.values()
    outcome = {"score": next(iter(first.values())), "scores": scores}
    if wrong.any():
        outcome["detection"] = comparison.detection(model, data.x_train, labels, wrong, folder)
    return outcome


def all_scores(results: comparison.Results, task: str, methods: list[str]) -> str:
    """The task's other metrics and dev sets, as means over the seeds."""
    described = glue.TASKS[task]
    columns = [(split, name) for split in described.dev_splits for name in described.metrics]
    rows = []
    for method in methods:
        kept = [
            run["scores"]
            for run in results.runs
            if (run["run"]["task"], run["run"]["method"]) == (task, method) and "scores" in run
        ]
        if kept:
            means = [
                statistics.mean(scores[split][name] for scores in kept) for split, name in columns
            ]
            rows.append([method, *(f"{mean:.2f}" for mean in means)])
    header = [f"{NAMES[name]}, {split}" for split, name in columns]
    return comparison.markdown(["method", *header], rows)


def main(argv):
    comparison.check_command(argv)
    logging.set_verbosity(logging.INFO)
    tasks = comparison.names("task", TASK.value, list(glue.TASKS))
    methods = comparison.names("method", METHOD.value, list(METHODS))
    network = NETWORK.value
    flags_of_all = (EPOCHS, SAMPLES, WRONG_LABELS, BATCH_SIZE, OPTIMIZER, LEARNING_RATE)
    settings = {flag.name: flag.value for flag in (*flags_of_all, *OWN_FLAGS[network])}
    settings |= {name: value for name, value in DEFAULTS[network].items() if settings[name] is None}
    if SMOKE.value:
        settings |= {"epochs": 2, "samples": 64}
    seeds = 1 if SMOKE.value else SEEDS.value
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    results = comparison.Results(folder / "results.json", settings)
    texts = {}
    for task in tasks:
        data = Data(task, DATA_DIR.value, settings, network)
        runs = [
            {"task": task, "method": method, "seed": seed}
            for seed in range(seeds)
            for method in methods
        ]
        texts[task] = data.train.texts
        one = partial(train, data=data, settings=settings)
        done = comparison.train_all(runs, results, one, "glue")
        if not done:
            break
    lines = []
    for task in tasks:
        described = glue.TASKS[task]
        paper = None
        # A network from random weights is not the paper's BERT.
        if task in PAPER_TASKS and (network == "cnn" or settings["bert"] is not None):
            column = PAPER_TASKS.index(task)
            paper = {method: row[column] for method, row in PAPER[network].items()}
        metric = f"{NAMES[described.metrics[0]]} on {described.dev_splits[0]} (%)"
        title = f"{described.folder}, {metric}, {network}"
        table = comparison.method_table(results, methods, paper, task=task)
        lines += [f"{title}:", "", table, ""]
        if len(described.dev_splits) * len(described.metrics) > 1:
            lines += [all_scores(results, task, methods), ""]
        lines += comparison.detection_lines(results, methods, task=task)
        if task in texts:
            comparison.write_report(
                results, title, methods, paper, texts[task], described.classes, task=task
            )
    table = "\n".join(lines)
    results.path.with_name("table.md").write_text(table)
    print(f"\n{table}\nResults of each run: {results.path}")
    return 0 if done else comparison.INTERRUPTED


if __name__ == "__main__":
    app.run(main)
