"""GLUE tasks with a CNN from random weights or with BERT: compares the methods.

    KERAS_BACKEND=jax python -m recipes.glue --data_dir=glue --task=rte,mrpc,cola --method=all
    python -m recipes.glue --network=bert --bert=uncased_L-12_H-768_A-12 --data_dir=glue

Defaults are the paper's settings (Jiang et al. 2020, Table 2). CNN: plain SGD at 8e-3, batch 32.
BERT: Adam at 5e-5, batch 64. Both: 50 epochs, T = 1. The paper does not print the sizes of its
CNN; these are Kim's, with word vectors of 32. `--data_dir` has RTE/train.tsv and so on; without it
tensorflow-datasets loads the data. Finished runs in --output_dir are not repeated. Scores:
`recipes/results/glue.md`.

BERT needs the extra `text`. `--bert` is a folder with weights in the layout of Hugging Face or of
Google, or the name of a preset, which is downloaded. Without it, training starts from a small
network with random weights (`--bert_size`). Its vocabulary has the word pieces of `--vocabulary`,
or the words of the training sentences. Texts are tokenized once per task. Batches are cut to their
longest text, or padded to --sequence_length with --nodynamic_length.

On 2 CPU cores with JAX, a run of 50 epochs of the CNN takes 20 to 24 s. Six methods, five seeds
and the tasks RTE, MRPC and CoLA take 35 minutes. The convolutions take most of this time: 0.6
GFLOP a step at 80 words, padding included. That is why word vectors are short, and rows are cut at
a length that at most a quarter of the sentences exceed. TensorFlow takes longer for the same
network, most of all where sentences are short.
"""

import statistics
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

from keras_lstsd import backbones
from keras_lstsd.data import SampleBatches, TokenBatches, glue, label_noise, tokens, words
from recipes import metrics, options, runs, tables
from recipes.methods import ALONE, METHODS

TASK = flags.DEFINE_string("task", "rte", "Tasks with commas between, or all.")
NETWORK = flags.DEFINE_enum("network", "cnn", ["cnn", "bert"], "The student.")
METHOD = flags.DEFINE_string("method", "vanilla,lstsd", "Methods with commas between, or all.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with RTE/train.tsv and so on; by default tensorflow-datasets."
)
SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, ...", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 50, "Epochs of each run.", lower_bound=1)
SAMPLES = flags.DEFINE_integer("samples", None, "Trains on the first samples of a task only.", 1)
WRONG_LABELS = flags.DEFINE_float("wrong_labels", 0.0, "Share of wrong training labels.", 0.0, 1.0)
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Batch size; by default the paper's.", 1)
OPTIMIZER = flags.DEFINE_enum(
    "optimizer", None, ["sgd", "adam"], "Plain SGD or Adam; by default the paper's."
)
LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Learning rate; by default the paper's.")
MINI_GENERATION_EPOCHS = flags.DEFINE_integer(
    "mini_generation_epochs", None, "E of LSTSD; by default the paper's.", 1
)
MIXED_PRECISION = flags.DEFINE_bool("mixed_precision", False, "Computes in bfloat16.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", None, "Compiles with XLA; by default Keras decides.")
EMBEDDING_DIM = flags.DEFINE_integer("embedding_dim", 32, "CNN: size of a word vector.")
FILTERS = flags.DEFINE_integer("filters", 100, "CNN: filters of each of the widths 3, 4 and 5.")
BERT = flags.DEFINE_string("bert", None, "BERT: folder of its weights, or name of a preset.")
BERT_SIZE = flags.DEFINE_enum(
    "bert_size", "tiny", list(backbones.BERT_SIZES), "BERT: its size without --bert."
)
VOCABULARY = flags.DEFINE_string("vocabulary", None, "BERT: file with one word piece per line.")
SEQUENCE_LENGTH = flags.DEFINE_integer("sequence_length", 128, "BERT: most tokens of a text.", 8)
DYNAMIC_LENGTH = flags.DEFINE_bool(
    "dynamic_length", True, "BERT: cuts batches to their longest text, in multiples of 16."
)
SUBMIT = flags.DEFINE_bool("submit", False, "Writes predictions of the test split for GLUE.")
EXPORT = flags.DEFINE_bool("export", False, "Writes each trained student for serving.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/glue", "Folder of the results; the same folder resumes."
)
SMOKE = flags.DEFINE_bool(
    "smoke", False, "64 sentences, two epochs and one seed, to test the recipe."
)

# The paper's settings; then the other flags that determine the scores of a network.
DEFAULTS = {
    "cnn": {"batch_size": 32, "optimizer": "sgd", "learning_rate": 8e-3},
    "bert": {"batch_size": 64, "optimizer": "adam", "learning_rate": 5e-5},
}
OWN_FLAGS = {
    "cnn": (EMBEDDING_DIM, FILTERS),
    "bert": (BERT, BERT_SIZE, VOCABULARY, SEQUENCE_LENGTH, DYNAMIC_LENGTH, JIT_COMPILE),
}

# Words in a row of the CNN: at least three in four sentences of the task are not longer, as padding
# costs time. Those of the second line are estimates.
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
    """A task for the CNN: sentences as numbers of words of the training sentences."""

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
    """A task for BERT: texts as numbers of word pieces."""

    def __init__(self, task: str, train: glue.Examples, settings: dict):
        self.task = task
        self.settings = settings
        self.vocabulary = settings["vocabulary"]
        if self.vocabulary is None and settings["bert"] is None:
            known = words.build_vocabulary(train.first + (train.second or []))
            self.vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]
        self.preprocessor = self.student().preprocessor

    def encode(self, split: glue.Examples) -> dict[str, np.ndarray]:
        start = time.monotonic()
        x = tokens.encode(self.preprocessor, split.first, split.second)
        seconds = time.monotonic() - start
        cut = np.mean(x["padding_mask"].sum(-1) == self.settings["sequence_length"])
        rate = len(split.first) / seconds
        runs.progress(
            f"{self.task}: {len(split.first)} texts tokenized in {seconds:.1f} s ({rate:.0f}/s); "
            f"{100 * cut:.1f} % fill all {self.settings['sequence_length']} tokens."
        )
        return x

    def batches(self, x: dict, y: np.ndarray) -> TokenBatches:
        multiple = 16 if self.settings["dynamic_length"] else None
        batches = TokenBatches(x, y, multiple=multiple, batch_size=self.settings["batch_size"])
        padded = 100 * (1 - x["padding_mask"].mean())
        runs.progress(
            f"{self.task}: {100 * batches.padding_share():.1f} % of the positions in training are "
            f"padding; {padded:.1f} % if all texts had {self.settings['sequence_length']} tokens."
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
    """A task for its network: training data, and inputs and labels of the other splits."""

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
    """Trains one method with one seed; the score is the task's metric on dev, in %."""
    task, method = run["task"], METHODS[run["method"]]
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    classes = len(glue.TASKS[task].classes)
    labels, wrong = label_noise.with_wrong_labels(
        data.train.labels, settings["wrong_labels"], classes, run["seed"]
    )
    batches = data.batches(data.x_train, keras.utils.to_categorical(labels, classes))
    method_settings = method.settings(epochs, settings["mini_generation_epochs"])
    keras.config.set_dtype_policy("mixed_bfloat16" if settings["mixed_precision"] else "float32")
    model = method.wrap(data.student(), len(labels), **method_settings)
    optimizer = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[settings["optimizer"]]
    jit_compile = "auto" if JIT_COMPILE.value is None else JIT_COMPILE.value
    runs.compiled(
        model,
        method,
        optimizer,
        settings["learning_rate"],
        num_samples=len(labels),
        epochs=epochs,
        batch_size=batch_size,
        jit_compile=jit_compile,
    )
    callbacks = [*runs.dynamics(model, labels, folder), *callbacks]
    model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks)
    scores = {}
    for split, inputs in data.inputs.items():
        predictions = model.predict(inputs, batch_size=256, verbose=0).argmax(-1)
        if split in glue.TASKS[task].dev_splits:
            scores[split] = metrics.scores(task, data.labels[split], predictions)
        else:
            metrics.write_predictions(folder, task, split, predictions)
    if EXPORT.value:
        model.export(folder / "serving", verbose=False)
    first, *_ = scores.values()
    outcome = {"score": next(iter(first.values())), "scores": scores}
    if wrong.any():
        outcome["detection"] = runs.detection(model, data.x_train, labels, wrong, folder)
    return outcome


def all_scores(results: runs.Results, task: str, methods: list[str]) -> str:
    """All metrics of a task on all dev splits, as means over the seeds."""
    columns = [
        (split, name)
        for split in glue.TASKS[task].dev_splits
        for name in metrics.metric_names(task)
    ]
    rows = []
    for method in methods:
        stored = [
            run["scores"]
            for run in results.runs
            if (run["run"]["task"], run["run"]["method"]) == (task, method) and "scores" in run
        ]
        if stored:
            means = [
                statistics.mean(scores[split][name] for scores in stored) for split, name in columns
            ]
            rows.append([method, *(f"{mean:.2f}" for mean in means)])
    header = [f"{NAMES[name]}, {split}" for split, name in columns]
    return tables.markdown(["method", *header], rows)


def title_of(task: str, network: str) -> str:
    """The title of a task's table."""
    metric = f"{NAMES[metrics.metric_names(task)[0]]} on {glue.TASKS[task].dev_splits[0]} (%)"
    return f"{glue.TASKS[task].folder}, {metric}, {network}"


def paper_of(task: str, network: str, settings: dict) -> dict[str, float] | None:
    """The paper's scores on a task by method; None where the paper has none."""
    # A network with random weights is not the paper's BERT.
    if task not in PAPER_TASKS or (network == "bert" and settings["bert"] is None):
        return None
    column = PAPER_TASKS.index(task)
    return {method: row[column] for method, row in PAPER[network].items()}


def text_of(
    results: runs.Results, task: str, methods: list[str], network: str, settings: dict
) -> str:
    """All tables of a task."""
    metric_names = metrics.metric_names(task)
    paper = paper_of(task, network, settings)
    table = tables.method_table(results, methods, paper, NAMES[metric_names[0]], task=task)
    lines = [f"{title_of(task, network)}.\n{tables.READING}", "", table, ""]
    if len(glue.TASKS[task].dev_splits) * len(metric_names) > 1:
        lines += ["All metrics (%), means over the seeds:", ""]
        lines += [all_scores(results, task, methods), ""]
    lines += tables.detection_lines(results, methods, task=task)
    return "\n".join(lines)


def main(argv):
    options.check_command(argv)
    tasks = options.names("task", TASK.value, list(glue.TASKS))
    methods = options.names("method", METHOD.value, ALONE)
    network = NETWORK.value
    flags_of_all = (EPOCHS, SAMPLES, WRONG_LABELS, BATCH_SIZE, OPTIMIZER, LEARNING_RATE)
    flags_of_all += (MINI_GENERATION_EPOCHS, MIXED_PRECISION)
    settings = {flag.name: flag.value for flag in (*flags_of_all, *OWN_FLAGS[network])}
    settings |= {name: value for name, value in DEFAULTS[network].items() if settings[name] is None}
    if SMOKE.value:
        settings |= {"epochs": 2, "samples": 64}
    seeds = 1 if SMOKE.value else SEEDS.value
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    results = runs.Results(folder / "results.json", settings)
    texts = {}
    for task in tasks:
        data = Data(task, DATA_DIR.value, settings, network)
        todo = [
            {"task": task, "method": method, "seed": seed}
            for seed in range(seeds)
            for method in methods
        ]
        texts[task] = data.train.texts
        done = runs.train_all(todo, results, partial(train, data=data, settings=settings))
        if not done:
            break
    for task in texts:
        title, paper = title_of(task, network), paper_of(task, network, settings)
        classes = glue.TASKS[task].classes
        tables.write_report(results, title, methods, paper, texts[task], classes, task=task)
    text = "\n".join(text_of(results, task, methods, network, settings) for task in tasks)
    tables.present(results, "table", text, done)
    return 0 if done else runs.INTERRUPTED


if __name__ == "__main__":
    app.run(main)
