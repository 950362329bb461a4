"""CIFAR-100: networks and methods at the settings of their papers.

    python -m recipes.cifar100 --network=resnet20 --method=vanilla,lstsd --data_dir=DIR

`--data_dir` has cifar-100-binary or cifar-100-python, as a folder or an archive; without it
tensorflow-datasets loads the data. By default a training has the paper's settings, which are in
`recipes/networks.py`. The score is the accuracy on the 10,000 test images after the last epoch. The
same command resumes an interrupted run after the last epoch that it finished, and does not repeat
a finished run. On a GPU add `--device_data --mixed_precision --jit_compile`. Scores:
`recipes/results/cifar100.md`.

--output_dir gets results.json, table.md, and a folder for each run with its history
(history.csv) and the trained student (student.keras). With TensorFlow and TensorBoard it also gets
logs for TensorBoard.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

from keras_lstsd import Distillation, outputs, schedules
from keras_lstsd.data import CropAndFlip, SampleBatches, cifar100, label_noise
from recipes import metrics, options, runs, tables
from recipes.methods import ALONE, METHODS, Method
from recipes.networks import NETWORKS, student

# The snapshot methods have cycles of 40 epochs in a training of 164.
SNAPSHOT_CYCLE = 40 / 164

NETWORK = flags.DEFINE_string(
    "network", None, "Networks with commas between, or all; by default the recipe's."
)
METHOD = flags.DEFINE_string(
    "method", None, "Methods with commas between, or all; by default the recipe's."
)
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs; by default the paper's.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Batch size; by default the paper's.", 1)
SAMPLES = flags.DEFINE_integer("samples", None, "Trains on the first images only.", 1)
WRONG_LABELS = flags.DEFINE_float("wrong_labels", 0.0, "Share of wrong training labels.", 0.0, 1.0)
LABELS_PER_CLASS = flags.DEFINE_integer(
    "labels_per_class", None, "Labels that each class keeps; by default all.", 1
)
LABEL_FLAGS = (WRONG_LABELS, LABELS_PER_CLASS)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the CIFAR-100 files; by default tensorflow-datasets."
)
SEED = flags.DEFINE_string("seed", "0", "Seeds with commas between.")
MIXED_PRECISION = flags.DEFINE_bool("mixed_precision", False, "Computes in bfloat16.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", None, "Compiles with XLA; by default Keras decides.")
DEVICE_DATA = flags.DEFINE_bool("device_data", False, "Stores the images on the device.")
VALIDATION_FREQ = flags.DEFINE_integer(
    "validation_freq", 10, "Epochs between two validations on the test images.", 1
)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/cifar100", "Folder of the results; the same folder resumes."
)
SMOKE = flags.DEFINE_bool(
    "smoke", False, "64 images, 2 epochs, ResNet-8; random images without --data_dir."
)

# Jiang et al. 2020, Tables 1 and 3: test accuracy in %.
PAPER = {
    "vanilla": (66.43, 68.39, 70.06, 71.47, 78.00),
    "mean_teacher": (68.37, 70.26, 72.00, 72.57, 76.80),
    "snapshot_ensemble": (67.46, 69.49, 70.45, 71.91, 78.00),
    "temporal_ensembling": (67.90, 69.79, 71.20, 71.99, 77.13),
    "snapshot_distillation": (68.24, 69.84, 70.78, 72.48, 78.83),
    "lstsd": (69.42, 71.51, 73.17, 73.83, 79.35),
    "lstsd_without_long": (69.09, 71.16, 73.15, 73.35),
    "lstsd_without_short": (68.82, 70.71, 72.79, 73.23),
    "single_teacher_lstsd": (67.85, 69.88, 70.66, 72.25),
}
PAPER_NETWORKS = ("resnet20", "resnet32", "resnet56", "resnet110", "densenet100")


class Data:
    """CIFAR-100 in memory, with images as uint8."""

    def __init__(self, data_dir: str | None, samples: int | None, random: bool = False):
        if random:
            draw = np.random.default_rng(0)
            splits = [
                (draw.integers(0, 256, (64, 32, 32, 3), np.uint8), draw.integers(0, 100, 64))
                for _ in range(2)
            ]
        else:
            splits = [cifar100.load(split, data_dir) for split in ("train", "test")]
        (self.x_train, y_train), (self.x_test, self.y_test) = splits
        self.x_train = self.x_train[:samples]
        self.y_train = y_train[:samples]


def method_settings(run: dict, epochs: int) -> dict:
    """Arguments of a run's method: the paper's for CIFAR-100; cycles are scaled to `epochs`."""
    method = METHODS[run["method"]]
    settings = method.arguments | method.length(epochs)
    if run["method"].startswith("snapshot"):
        settings["mini_generation_epochs"] = max(1, round(SNAPSHOT_CYCLE * epochs))
    if "mini_generation_epochs" in run:
        settings["mini_generation_epochs"] = run["mini_generation_epochs"]
    return settings


class Task:
    """How a run trains: its labels, schedule, batches and validation."""

    def __init__(self, run: dict, data: Data, settings: dict):
        self.network, self.data = NETWORKS[run["network"]], data
        self.epochs = settings["epochs"] or self.network.epochs
        self.batch_size = settings["batch_size"] or self.network.batch_size
        self.labels, self.wrong = label_noise.with_wrong_labels(
            data.y_train, settings["wrong_labels"], cifar100.NUM_CLASSES, run["seed"]
        )
        self.y = keras.utils.to_categorical(self.labels, cifar100.NUM_CLASSES)
        if settings["labels_per_class"] is not None:
            kept = settings["labels_per_class"]
            self.y[label_noise.hidden_labels(self.labels, kept, run["seed"])] = 0
        precision = "mixed_bfloat16" if settings["mixed_precision"] else "float32"
        keras.config.set_dtype_policy(precision)

    def compiled(self, method: Method, network: keras.Model, **arguments) -> Distillation:
        """A network in a method, with the paper's optimizer."""
        samples = len(self.data.x_train)
        steps = self.epochs * -(-samples // self.batch_size)
        first = self.network.learning_rate
        if self.network.drops:
            rate = schedules.StepDecay(first, steps, self.network.drops)
        else:
            rate = schedules.CyclicCosine(first, steps, steps)
        return runs.compiled(
            method.wrap(network, samples, **arguments),
            method,
            partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
            first,
            num_samples=samples,
            epochs=self.epochs,
            batch_size=self.batch_size,
            decayed=rate,
            teacher=arguments.get("teacher"),
            jit_compile="auto" if JIT_COMPILE.value is None else JIT_COMPILE.value,
        )

    def fit(self, model: Distillation, callbacks: list) -> None:
        """Trains on augmented images, with the test images as validation."""
        batches = SampleBatches(
            self.data.x_train,
            self.y,
            batch_size=self.batch_size,
            # The padding has the mean colour, which is 0 after the normalization.
            augment=CropAndFlip(pad=4, fill=cifar100.MEAN.round()),
            on_device=DEVICE_DATA.value,
        )
        y_test = keras.utils.to_categorical(self.data.y_test, cifar100.NUM_CLASSES)
        model.fit(
            batches,
            epochs=self.epochs,
            verbose=0,
            callbacks=callbacks,
            validation_data=(self.data.x_test, y_test),
            validation_batch_size=500,
            validation_freq=VALIDATION_FREQ.value,
        )

    def measures(self, model: keras.Model) -> dict[str, float]:
        """What `metrics.measures` finds on the test images."""
        # The networks put out logits, an ensemble probabilities.
        y_pred = model.predict(self.data.x_test, batch_size=500, verbose=0)
        if outputs.ends_in_logits(getattr(model, "student", model)):
            y_pred = keras.ops.convert_to_numpy(keras.ops.softmax(y_pred))
        return metrics.measures(self.data.y_test, y_pred)


def train(run: dict, folder: Path, callbacks: list, data: Data, settings: dict) -> dict:
    """Trains one network with one method and one seed; the score is the test accuracy in %."""
    method = METHODS[run["method"]]
    task = Task(run, data, settings)

    def teacher_task():
        return Task(run | {"network": run["teacher"]}, data, settings)

    teacher = runs.teacher_of(
        method,
        folder.parent / run.get("teacher", ""),
        run["seed"],
        lambda: teacher_task().compiled(METHODS["vanilla"], student(run["teacher"])),
        lambda model, callbacks: teacher_task().fit(model, callbacks),
    )
    # A method with a teacher starts from the weights of one without.
    keras.utils.set_random_seed(run["seed"])
    model = task.compiled(
        method, student(run["network"]), teacher=teacher, **method_settings(run, task.epochs)
    )
    labels, wrong = task.labels, task.wrong
    callbacks = [*runs.dynamics(model, task.y, folder), *callbacks]
    if keras.backend.backend() == "tensorflow" and find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard"))
    task.fit(model, callbacks)
    model.student.save(folder / "student.keras")
    outcome = task.measures(model)
    if wrong.any():
        outcome["detection"] = runs.detection(model, data.x_train, labels, wrong, folder)
    return outcome


def compare(
    todo: Sequence[dict],
    name: str,
    text: Callable[[runs.Results], str],
    report: Callable[[runs.Results, Data], None] = lambda *_: None,
    train: Callable[..., dict] = train,
) -> int:
    """Trains the runs, then writes and prints the tables of their results.

    Args:
        todo: the runs.
        name: name of the file of the tables.
        text: makes the tables of the results.
        report: writes HTML reports.
        train: trains one run.

    Returns:
        The exit status.
    """
    settings = {
        flag.name: flag.value
        for flag in (EPOCHS, BATCH_SIZE, SAMPLES, *LABEL_FLAGS, MIXED_PRECISION)
    }
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    if SMOKE.value:
        settings |= {"epochs": 2, "batch_size": 32, "samples": 64}
    results = runs.Results(folder / "results.json", settings)
    data = Data(DATA_DIR.value, settings["samples"], SMOKE.value and DATA_DIR.value is None)

    def train_one(run, folder, callbacks):
        keras.backend.clear_session()
        return train(run, folder, callbacks, data, settings)

    done = runs.train_all(todo, results, train_one)
    report(results, data)
    tables.present(results, name, text(results), done)
    return 0 if done else runs.INTERRUPTED


def papers(network: str, settings: dict) -> dict[str, float] | None:
    """The paper's accuracy on a network by method; None where the paper has no such training."""
    if any(settings.get(flag.name) for flag in (SAMPLES, EPOCHS, *LABEL_FLAGS)):
        return None
    column = PAPER_NETWORKS.index(network) if network in PAPER_NETWORKS else 99
    return {method: row[column] for method, row in PAPER.items() if column < len(row)} or None


def title(network: str) -> str:
    return f"CIFAR-100, test accuracy (%), {network}"


def network_tables(networks: Sequence[str], methods: Sequence[str]) -> Callable:
    """Makes a table of the methods for each network, with the paper's numbers."""

    def text(results):
        parts = []
        for network in networks:
            paper = papers(network, results.settings)
            table = tables.method_table(results, methods, paper, network=network)
            parts += [f"{title(network)}.\n{tables.READING}", "", table, ""]
            parts += tables.detection_lines(results, methods, network=network)
        return "\n".join(parts)

    return text


def network_reports(networks: Sequence[str], methods: Sequence[str]) -> Callable:
    """Writes a page for each network."""

    def reports(results, data):
        for network in networks:
            tables.write_report(
                results,
                title(network),
                methods,
                papers(network, results.settings),
                samples=data.x_train,
                network=network,
            )

    return reports


def seeds() -> list[int]:
    """The values of --seed."""
    return options.seeds(SEED.value)


def product(networks: Sequence[str], methods: Sequence[str]) -> list[dict]:
    """A run for each network, seed and method."""
    return runs.product("network", networks, seeds(), methods)


def prepare(argv: Sequence[str], networks: Sequence[str]) -> list[str]:
    """Checks the command; returns the networks of --network, by default those given."""
    options.check_command(argv)
    if SMOKE.value:
        return ["resnet8"]
    return options.names("network", NETWORK.value or ",".join(networks), list(NETWORKS))


def table(argv: Sequence[str], name: str, methods: Sequence[str], networks: Sequence[str]) -> int:
    """Compares methods on networks, by default those given."""
    networks = prepare(argv, networks)
    methods = options.names("method", METHOD.value or ",".join(methods), ALONE)
    return compare(
        product(networks, methods),
        name,
        network_tables(networks, methods),
        network_reports(networks, methods),
    )


def main(argv):
    return table(argv, "table", ("vanilla", "lstsd"), ("resnet20",))


if __name__ == "__main__":
    app.run(main)
