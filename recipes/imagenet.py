"""ImageNet: networks and methods at the settings of two papers.

    python -m recipes.imagenet --data_dir=DIR --network=resnet50 --method=vanilla,dups

`--data_dir` has a folder tree `train/<class>/<image>` and `val/<class>/<image>`, or TFRecords
`train-*-of-*` and `validation-*-of-*` with the features "image/encoded" and "image/class/label".
`--schedule=dups` has the settings of Yang et al. 2021 (DUPS): 160 epochs, 10 stages, batch 64.
`--schedule=snapshot` has those of Yang et al. 2019 (Snapshot Distillation): 90 epochs, 2 cycles,
batch 256. Both have SGD with momentum 0.9, weight decay 1e-4, and one cosine from the rate 0.1;
methods with cycles have a cosine for each.

Training images are random crops of 224 pixels, flipped with probability 1/2; test images are the
centre of 256. Tables of samples x classes keep the largest 8 entries of a row: `--top_k`. The score
is the top-1 accuracy on the test images after the last epoch. The same command resumes an
interrupted run after the last epoch that it finished. On a GPU add `--mixed_precision
--jit_compile`. The papers' numbers and the commands of their tables: `recipes/results/imagenet.md`.

--output_dir gets results.json, table.md, and a folder for each run with its history (history.csv)
and the trained student (student.keras; with --export also a SavedModel, for images as uint8).
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from recipes import images, options, runs
from recipes.methods import ALONE

NETWORK = flags.DEFINE_string("network", "resnet50", "Networks with commas between, or all.")
METHOD = flags.DEFINE_string("method", "vanilla,dups", "Methods with commas between, or all.")
SEED = flags.DEFINE_string("seed", "0", "Seeds with commas between.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the images or of the TFRecords.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs; by default the schedule's.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Batch size; by default the schedule's.", 1)
TOP_K = flags.DEFINE_integer("top_k", 8, "Entries of a row in tables of samples x classes.", 1)
MIXED_PRECISION = flags.DEFINE_bool("mixed_precision", False, "Computes in bfloat16.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", None, "Compiles with XLA; by default Keras decides.")
EXPORT = flags.DEFINE_bool("export", False, "Writes each trained student for serving.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/imagenet", "Folder of the results; the same folder resumes."
)
SMOKE = flags.DEFINE_bool(
    "smoke", False, "Images of 32 pixels, 2 epochs; made-up images without --data_dir."
)


class Schedule(NamedTuple):
    """The settings of a paper, and its top-1 accuracy in % by method and network."""

    epochs: int
    batch_size: int
    stages: int
    paper: dict[str, dict[str, float]]


SCHEDULES = {
    "dups": Schedule(
        160,
        64,
        10,
        {
            "vanilla": {"resnet50": 76.58, "resnet101": 77.86, "resnet152": 78.17},
            "label_smoothing": {"resnet50": 76.69, "resnet101": 78.41, "resnet152": 78.63},
            "dups": {"resnet50": 77.58, "resnet101": 78.74, "resnet152": 79.06},
        },
    ),
    # The source prints neither batch size nor rate.
    "snapshot": Schedule(
        90,
        256,
        2,
        {
            "vanilla": {"resnet101": 78.38, "resnet152": 78.83},
            "snapshot_distillation": {"resnet101": 78.75, "resnet152": 79.07},
        },
    ),
}
SCHEDULE = flags.DEFINE_enum("schedule", "dups", list(SCHEDULES), "The paper of the settings.")
LEARNING_RATE = 0.1


def read(data_dir: str | None, cache: Path) -> images.Data:
    """The images of `--data_dir`.

    Raises:
        SystemExit: without a folder, and for one with neither folders of images nor TFRecords.
    """
    folder = Path(data_dir or "")
    if data_dir is not None and (folder / "train").is_dir():
        return images.from_folders(folder, test="val")
    if data_dir is not None and any(folder.glob("train-*-of-*")):
        return images.from_records(folder, cache)
    raise SystemExit(
        f"There are no images. Received: --data_dir={data_dir}. Expected: --data_dir=DIR with "
        "train/<class>/<image> and val/<class>/<image>, or with train-*-of-* and validation-*-of-*."
    )


def papers(network: str, settings: dict) -> dict[str, float] | None:
    """The paper's accuracy by method; None where the paper has no such training."""
    schedule = SCHEDULES[settings["schedule"]]
    same = (settings["epochs"], settings["batch_size"]) == schedule[:2]
    found = {method: row[network] for method, row in schedule.paper.items() if network in row}
    return (found or None) if same else None


def main(argv):
    options.check_command(argv)
    networks = options.names("network", NETWORK.value, list(images.NETWORKS))
    methods = options.names("method", METHOD.value, ALONE)
    schedule = SCHEDULES[SCHEDULE.value]
    settings = {
        "schedule": SCHEDULE.value,
        "epochs": EPOCHS.value or schedule.epochs,
        "batch_size": BATCH_SIZE.value or schedule.batch_size,
        "learning_rate": LEARNING_RATE,
        "stages": schedule.stages,
        "image_size": 224,
        "top_k": TOP_K.value,
        "weights": None,
        "mixed_precision": MIXED_PRECISION.value,
        "jit_compile": JIT_COMPILE.value,
    }
    if SMOKE.value:
        settings |= {"epochs": EPOCHS.value or 2, "batch_size": 16, "image_size": 32}
    folder = Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value)
    results = runs.Results(folder / "results.json", settings)
    made_up = SMOKE.value and DATA_DIR.value is None
    data = images.made_up() if made_up else read(DATA_DIR.value, folder / "records")
    todo = runs.product("network", networks, options.seeds(SEED.value), methods)
    one = partial(images.train, data=data, settings=settings, export=EXPORT.value)
    done = runs.train_all(todo, results, one)
    titles = {network: f"ImageNet, top-1 accuracy (%), {network}" for network in networks}
    images.present(results, "network", titles, methods, papers, done)
    return 0 if done else runs.INTERRUPTED


if __name__ == "__main__":
    app.run(main)
