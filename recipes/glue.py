"""GLUE tasks with a CNN or a bi-LSTM from random weights, or with BERT: compares the methods.

    KERAS_BACKEND=jax python -m recipes.glue --data_dir=glue --task=rte,mrpc,cola --method=all
    python -m recipes.glue --network=bert --bert=uncased_L-12_H-768_A-12 --data_dir=glue

Defaults are the paper's settings (Jiang et al. 2020, Table 2). CNN: plain SGD at 8e-3, batch 32.
BERT: Adam at 5e-5, batch 64. Both: 50 epochs, T = 1. The paper does not print the sizes of its
CNN; these are Kim's, with word vectors of 32. `--data_dir` has RTE/train.tsv and so on; without it
tensorflow-datasets loads the data. Finished runs in --output_dir are not repeated. Scores:
`recipes/results/glue.md`.

`--teacher` is the BERT that teaches a smaller one or a bi-LSTM, with the weights of a folder or
preset; both must have one vocabulary. For a task and a seed it is fine-tuned once, for the methods
that take a trained teacher. `tiny_bert` spends the first half of the epochs on layers, the rest on
predictions; in `tiny_bert_prokt` ProKT is the second half.

    python -m recipes.glue --network=bilstm --teacher=uncased_L-12_H-768_A-12 --task=mrpc \
        --epochs=6 --method=vanilla,knowledge_distillation,rco,prokt --data_dir=glue

BERT needs the extra `text`. `--bert` is a folder with weights in the layout of Hugging Face or of
Google, or the name of a preset, which is downloaded. Without it, training starts from a small
network with random weights (`--bert_size`). Its vocabulary has the word pieces of `--vocabulary`,
or the words of the training sentences. Texts are tokenized once per task. Batches have texts of
like lengths, or are padded to --sequence_length with --nodynamic_length. Tokens are stored in the
folder of the results, for later calls. On a CPU that computes in
bfloat16, TensorFlow is fastest with --mixed_precision --nojit_compile (recipes/results/cost.md).

On 2 CPU cores with JAX, a run of 50 epochs of the CNN takes 20 to 24 s. Six methods, five seeds
and the tasks RTE, MRPC and CoLA take 35 minutes. The convolutions take most of this time: 0.6
GFLOP a step at 80 words, padding included. That is why word vectors are short, and rows are cut at
a length that at most a quarter of the sentences exceed. TensorFlow takes longer for the same
network, most of all where sentences are short.
"""

import statistics
from functools import partial
from pathlib import Path

import keras
from absl import app, flags

from keras_lstsd import Distillation, TinyBERT, backbones, generations
from keras_lstsd.data import glue, label_noise
from recipes import metrics, options, runs, tables, texts
from recipes.methods import ALONE, METHODS, Method

TASK = flags.DEFINE_string("task", "rte", "Tasks with commas between, or all.")
NETWORK = flags.DEFINE_enum("network", "cnn", ["cnn", "bert", "bilstm"], "The student.")
TEACHER = flags.DEFINE_string(
    "teacher", None, "BERT, bi-LSTM: folder of the teacher's weights, or name of a preset."
)
STUDENT_LAYERS = flags.DEFINE_list(
    "student_layers", None, "BERT: makes the student of these layers of --bert, from 1."
)
METHOD = flags.DEFINE_string("method", "vanilla,lstsd", "Methods with commas between, or all.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with RTE/train.tsv and so on; by default tensorflow-datasets."
)
SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, ...", lower_bound=1)
PAPER_EPOCHS = 50
EPOCHS = flags.DEFINE_integer("epochs", PAPER_EPOCHS, "Epochs of each run.", lower_bound=1)
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
WORD_BOUND = flags.DEFINE_float(
    "word_bound", None, "CNN: initial entries of word vectors are below it; by default Kim's.", 0.0
)
BERT = flags.DEFINE_string("bert", None, "BERT: folder of its weights, or name of a preset.")
BERT_SIZE = flags.DEFINE_enum(
    "bert_size", "tiny", list(backbones.BERT_SIZES), "BERT: its size without --bert."
)
VOCABULARY = flags.DEFINE_string("vocabulary", None, "BERT: file with one word piece per line.")
SEQUENCE_LENGTH = flags.DEFINE_integer("sequence_length", 128, "BERT: most tokens of a text.", 8)
DYNAMIC_LENGTH = flags.DEFINE_bool(
    "dynamic_length", True, "BERT: batches of texts of like lengths, in 16 lengths."
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
    # Shi et al. 2021; the batch size is that of BERT.
    "bilstm": {"batch_size": 64, "optimizer": "adam", "learning_rate": 1e-3},
}
PIECES = (BERT, BERT_SIZE, VOCABULARY, SEQUENCE_LENGTH, DYNAMIC_LENGTH, JIT_COMPILE, TEACHER)
OWN_FLAGS = {
    "cnn": (EMBEDDING_DIM, FILTERS, WORD_BOUND),
    "bert": (*PIECES, STUDENT_LAYERS),
    "bilstm": PIECES,
}
# Methods of texts only.
TINY_BERT = {
    "tiny_bert": Method(TinyBERT, teacher="given"),
    "tiny_bert_prokt": Method(TinyBERT, teacher="given"),
}

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


class Data:
    """A task for its network: training data, and inputs and labels of the other splits."""

    def __init__(self, task: str, data_dir: str | None, settings: dict, network: str, folder: Path):
        described = glue.TASKS[task]
        train = glue.load(task, "train", data_dir).head(settings["samples"])
        encoder = texts.ENCODERS[network](task, train, settings | {"cache": folder / "tokens"})
        self.student, self.batches = encoder.student, encoder.batches
        self.teacher = getattr(encoder, "teacher", None)
        self.train, self.x_train = train, encoder.encode(train)
        self.inputs, self.labels = {}, {}
        for split in described.dev_splits + described.test_splits * SUBMIT.value:
            examples = glue.load(task, split, data_dir).head(64 if SMOKE.value else None)
            self.inputs[split] = encoder.encode(examples)
            self.labels[split] = examples.labels


def train(run: dict, folder: Path, callbacks: list, data: Data, settings: dict) -> dict:
    """Trains one method with one seed; the score is the task's metric on dev, in %."""
    task, method = run["task"], (METHODS | TINY_BERT)[run["method"]]
    epochs = settings["epochs"]
    classes = len(glue.TASKS[task].classes)
    labels, wrong = label_noise.with_wrong_labels(
        data.train.labels, settings["wrong_labels"], classes, run["seed"]
    )
    batches = data.batches(data.x_train, keras.utils.to_categorical(labels, classes))
    keras.config.set_dtype_policy("mixed_bfloat16" if settings["mixed_precision"] else "float32")

    def compiled(network, method, settings, **arguments):
        optimizers = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
        return runs.compiled(
            method.wrap(network, len(labels), **arguments),
            method,
            optimizers[settings["optimizer"]],
            settings["learning_rate"],
            num_samples=len(labels),
            epochs=epochs,
            batch_size=settings["batch_size"],
            teacher=arguments.get("teacher"),
            jit_compile="auto" if JIT_COMPILE.value is None else JIT_COMPILE.value,
        )

    def fit(model, callbacks, epochs=epochs):
        model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks)

    def teacher_of(method):
        return runs.teacher_of(
            method,
            folder.parent / task,
            run["seed"],
            lambda: compiled(data.teacher(), METHODS["vanilla"], of_teacher),
            fit,
        )

    # A BERT beside another network has the paper's settings.
    of_teacher = settings if NETWORK.value == "bert" else settings | DEFAULTS["bert"]
    teacher = teacher_of(method)
    # A method with a teacher starts from the weights of one without.
    keras.utils.set_random_seed(run["seed"])
    first = epochs // 2
    if run["method"] == "tiny_bert_prokt":

        def make(stage, students):
            if not students:
                return compiled(data.student(), method, settings, teacher=teacher)
            prokt = METHODS["prokt"]
            return compiled(students[0], prokt, settings, teacher=teacher_of(prokt))

        _, student = generations.train(
            folder / "stages",
            make,
            lambda model, callbacks: fit(
                model, callbacks, first if isinstance(model, TinyBERT) else epochs - first
            ),
            generations=2,
            seed=1000 * run["seed"],
        )
        model = Distillation(student)
    else:
        arguments = method.settings(epochs, settings["mini_generation_epochs"])
        if method.cls is TinyBERT:
            arguments["intermediate_epochs"] = first
        model = compiled(data.student(), method, settings, teacher=teacher, **arguments)
        fit(model, [*runs.dynamics(model, labels, folder), *callbacks])
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
    """The paper's scores on a task by method; None where the paper has no such training."""
    others = settings["samples"] or settings["wrong_labels"] or settings["epochs"] != PAPER_EPOCHS
    if task not in PAPER_TASKS or network not in PAPER or others:
        return None
    # A network with random weights or fewer layers is not the paper's BERT.
    if network == "bert" and (settings["bert"] is None or settings["student_layers"]):
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
    network = NETWORK.value
    if TEACHER.value and network == "cnn":
        raise SystemExit(
            "--teacher is a BERT, whose inputs the CNN does not take. Received: "
            f"--teacher={TEACHER.value} --network=cnn. Expected: --network=bilstm or bert."
        )
    known = [*METHODS, *(TINY_BERT if network == "bert" else ())] if TEACHER.value else ALONE
    methods = options.names("method", METHOD.value, known)
    flags_of_all = (EPOCHS, SAMPLES, WRONG_LABELS, BATCH_SIZE, OPTIMIZER, LEARNING_RATE)
    flags_of_all += (MINI_GENERATION_EPOCHS, MIXED_PRECISION)
    settings = {flag.name: flag.value for flag in (*flags_of_all, *OWN_FLAGS[network])}
    settings |= {name: value for name, value in DEFAULTS[network].items() if settings[name] is None}
    if SMOKE.value:
        settings |= {"epochs": 2, "samples": 64}
    seeds = 1 if SMOKE.value else SEEDS.value
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    results = runs.Results(folder / "results.json", settings)
    sentences = {}
    for task in tasks:
        data = Data(task, DATA_DIR.value, settings, network, folder)
        todo = [
            {"task": task, "method": method, "seed": seed}
            for seed in range(seeds)
            for method in methods
        ]
        sentences[task] = data.train.texts
        done = runs.train_all(todo, results, partial(train, data=data, settings=settings))
        if not done:
            break
    for task in sentences:
        title, paper = title_of(task, network), paper_of(task, network, settings)
        classes = glue.TASKS[task].classes
        tables.write_report(results, title, methods, paper, sentences[task], classes, task=task)
    text = "\n".join(text_of(results, task, methods, network, settings) for task in tasks)
    tables.present(results, "table", text, done)
    return 0 if done else runs.INTERRUPTED


if __name__ == "__main__":
    app.run(main)
