"""A language model of the Penn Treebank: compares methods by the perplexity of the test text.

    python -m recipes.ptb --data_dir=ptb --method=vanilla,label_smoothing,dups --seeds=2

Defaults are the settings of Yang et al. 2021, Table 5, small model: two LSTM layers of 200 units,
no dropout, 15 epochs of SGD. The rate falls from 20 by one cosine, gradients are clipped at a norm
of 0.25. A batch has 20 rows of 35 words, and each row continues that of the batch before. DUPS has
5 stages and a table of words x words: 763 MiB. `--data_dir` has ptb.train.txt, ptb.valid.txt and
ptb.test.txt. A table per sample would take 35 GiB, so methods that need one are left out.

The perplexity is exp of the mean crossentropy of all words but the first of each of 20 streams,
after the last epoch. On 2 CPU cores, an epoch of the small model takes about 3 minutes. Scores:
`recipes/results/ptb.md`.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
from absl import app, flags
from keras import ops

from keras_lstsd import Distillation, backbones
from keras_lstsd.data import ptb
from keras_lstsd.schedules import CyclicCosine
from recipes import options, runs, tables
from recipes.methods import METHODS, Method

BATCH_SIZE = 20
STEPS = 35
LEARNING_RATE = 20.0
CLIP = 0.25
# Of DUPS and other methods with stages; Yang et al. 2021.
STAGES = 5


@dataclass(frozen=True)
class Size:
    """The settings of a size of Zaremba et al. 2014."""

    units: int
    dropout: float
    epochs: int


SIZES = {"small": Size(200, 0.0, 15), "medium": Size(650, 0.5, 40), "large": Size(1500, 0.65, 55)}
# Yang et al. 2021, Table 5.
PAPER = {
    "vanilla": {"small": 129.7, "medium": 95.3, "large": 89.2},
    "label_smoothing": {"small": 129.1, "medium": 96.7, "large": 88.7},
    "dups": {"small": 125.4, "medium": 93.9, "large": 85.7},
}
# Tables per sample would be too large. A copy of the network, as a teacher, has no states.
KNOWN = ("vanilla", "label_smoothing", "dups", "dups_plus")

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with ptb.train.txt and so on.")
SIZE = flags.DEFINE_enum("size", "small", list(SIZES), "The size of the network.")
METHOD = flags.DEFINE_string("method", "vanilla,dups", "Methods with commas between, or all.")
SEEDS = flags.DEFINE_integer("seeds", 2, "Number of seeds: 0, 1, ...", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of each run; by default the paper's.", 1)
WORDS = flags.DEFINE_integer(
    "words", None, "Takes the first words only, of the other texts a tenth.", 1000
)
JIT_COMPILE = flags.DEFINE_bool(
    "jit_compile", None, "Compiles with XLA; by default not on TensorFlow, which is faster so."
)
EXPORT = flags.DEFINE_bool("export", False, "Writes each trained student, for rows of any length.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/ptb", "Folder of the results; the same folder resumes."
)
SMOKE = flags.DEFINE_bool("smoke", False, "8 units, 2 epochs, 1 seed, to test the recipe.")


class Data:
    """The three texts as streams: inputs, labels and weights."""

    def __init__(self, folder: str, words: int | None):
        ids, self.vocabulary = ptb.load(folder)
        self.train = ptb.streams(ids["train"][:words], BATCH_SIZE, STEPS, drop_rest=True)
        held_out = words and words // 10
        self.valid, self.test = (
            ptb.streams(ids[split][:held_out], BATCH_SIZE, STEPS) for split in ("valid", "test")
        )


def network(data: Data, settings: dict, **options) -> keras.Model:
    """The language model; with `batch_size` it keeps its states between batches."""
    dropout, words = settings["dropout"], len(data.vocabulary)
    return backbones.lstm(words, settings["units"], dropout=dropout, **options)


def smoothed(y, logits):
    """The crossentropy of labels of which a share of 0.1 is spread over all words."""
    own = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    spread = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
    return 0.9 * own + 0.1 * spread


def perplexity(model: Distillation, split: tuple) -> float:
    """exp of the mean crossentropy of a text, of a model that was compiled with this loss."""
    x, y, weight = split
    loss = model.evaluate(
        x,
        y,
        sample_weight=weight,
        batch_size=BATCH_SIZE,
        verbose=0,
        callbacks=[backbones.ResetStates()],
    )
    # Keras divides by the number of words, padding included.
    return math.exp(loss * weight.size / weight.sum())


def compiled(model: Distillation, method: Method, settings: dict, total_steps: int) -> Distillation:
    """The model with the paper's optimizer and the loss of the method."""
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, total_steps)
    if method.cyclic:
        cycle_steps = total_steps // settings["epochs"] * model.mini_generation_epochs
        rate = CyclicCosine(LEARNING_RATE, cycle_steps, total_steps)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = settings["jit_compile"]
    if jit_compile is None:
        jit_compile = keras.backend.backend() != "tensorflow"
    model.compile(
        keras.optimizers.SGD(rate, global_clipnorm=CLIP),
        smoothed if method.label_smoothing else plain,
        jit_compile=jit_compile,
    )
    return model


def train(
    run: dict, folder: Path, callbacks: list, data: Data, settings: dict, export: bool = False
) -> dict:
    """Trains one method with one seed; the score is the perplexity of the test text."""
    method, epochs = METHODS[run["method"]], settings["epochs"]
    arguments = {}
    if method.cycles:
        arguments["mini_generation_epochs"] = math.ceil(epochs / STAGES)
    x, y, _ = data.train
    total_steps = epochs * len(x) // BATCH_SIZE
    student = network(data, settings, batch_size=BATCH_SIZE, length=STEPS)
    model = method.wrap(student, len(x), **arguments)
    compiled(model, method, settings, total_steps)
    model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        shuffle=False,
        validation_data=data.valid,
        verbose=0,
        callbacks=[backbones.ResetStates(), *callbacks],
    )
    if export:
        served = network(data, settings)
        for weight, trained in zip(
            served.trainable_weights, student.trainable_weights, strict=True
        ):
            weight.assign(trained)
        served.save(folder / "student.keras")
        Distillation(served).export(folder / "serving", verbose=False)
    compiled(model, METHODS["vanilla"], settings, total_steps)
    return {"score": perplexity(model, data.test), "valid": perplexity(model, data.valid)}


def text_of(results: runs.Results, methods: list[str], settings: dict) -> str:
    """The table of test perplexities."""
    size = settings["size"]
    as_paper = settings["epochs"] == SIZES[size].epochs and settings["words"] is None
    paper = {method: row[size] for method, row in PAPER.items()} if as_paper else None
    table = tables.method_table(results, methods, paper, "perplexity of the test text")
    return f"Penn Treebank, {size} LSTM. Lower is better.\n{tables.READING}\n\n{table}\n"


def main(argv):
    options.check_command(argv)
    if DATA_DIR.value is None:
        raise SystemExit(
            "The text must be given. Received: no --data_dir. Expected: --data_dir=FOLDER with "
            "ptb.train.txt, ptb.valid.txt and ptb.test.txt."
        )
    methods = options.names("method", METHOD.value, KNOWN)
    size = SIZES[SIZE.value]
    settings = {
        "size": SIZE.value,
        "units": size.units,
        "dropout": size.dropout,
        "epochs": EPOCHS.value or size.epochs,
        "words": WORDS.value,
        "jit_compile": JIT_COMPILE.value,
    }
    if SMOKE.value:
        settings |= {"units": 8, "epochs": 2, "words": 2000}
    seeds = 1 if SMOKE.value else SEEDS.value
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    results = runs.Results(folder / "results.json", settings)
    data = Data(DATA_DIR.value, settings["words"])
    todo = [{"method": method, "seed": seed} for seed in range(seeds) for method in methods]
    one = partial(train, data=data, settings=settings, export=EXPORT.value)
    done = runs.train_all(todo, results, one, unit="")
    tables.write_report(results, f"Penn Treebank, {SIZE.value} LSTM", methods)
    tables.present(results, "table", text_of(results, methods, settings), done)
    return 0 if done else runs.INTERRUPTED


if __name__ == "__main__":
    app.run(main)
