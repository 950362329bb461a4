"""Transfer from ImageNet to smaller data sets, at the settings of Yang et al. 2021, Table 4.

    python -m recipes.transfer --dataset=flowers102,dtd,cub --method=vanilla,label_smoothing,dups

Flowers102, DTD and CUB-200-2011 come from tensorflow-datasets, or with `--data_dir` from a folder
tree `<dataset>/train/<class>/<image>` and `<dataset>/test/<class>/<image>`. FGVC-Aircraft is not in
tensorflow-datasets in its full size, so it needs the tree.

A ResNet-101 with the weights of keras.applications trains for 40 epochs of SGD: batch 64, momentum
0.9, weight decay 1e-4, one cosine from the rate 0.01, 5 stages, augmentation as for ImageNet.
`--weights=FILE.keras` starts from another network for pixels from 0 to 255, such as a student of
`recipes.imagenet`; its last dense layer is replaced. The score is the top-1 accuracy on the test
images after the last epoch. The papers' numbers: `recipes/results/imagenet.md`.

The files in --output_dir are those of `recipes.imagenet`; the same command resumes.
"""

from functools import lru_cache
from pathlib import Path

from absl import app, flags

from recipes import images, options, runs
from recipes.methods import ALONE

# Name in tensorflow-datasets and splits for training. DTD: the first of its ten divisions.
DATASETS = {
    "flowers102": ("oxford_flowers102", "train+validation"),
    "aircraft": None,
    "dtd": ("dtd", "train+validation"),
    "cub": ("caltech_birds2011", "train"),
}
# Yang et al. 2021, Table 4: accuracy in %.
PAPER = {
    "vanilla": {"flowers102": 91.79, "aircraft": 77.41, "dtd": 66.46, "cub": 81.72},
    "label_smoothing": {"flowers102": 92.79, "aircraft": 76.75, "dtd": 67.05, "cub": 81.52},
    "dups": {"flowers102": 92.94, "aircraft": 77.87, "dtd": 68.24, "cub": 82.46},
}
SETTINGS = {
    "epochs": 40,
    "batch_size": 64,
    "learning_rate": 0.01,
    "stages": 5,
    "image_size": 224,
}

DATASET = flags.DEFINE_string("dataset", "flowers102", "Data sets with commas between, or all.")
NETWORK = flags.DEFINE_enum("network", "resnet101", list(images.NETWORKS), "The network.")
METHOD = flags.DEFINE_string("method", "vanilla,dups", "Methods with commas between, or all.")
SEED = flags.DEFINE_string("seed", "0", "Seeds with commas between.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the data sets' folders; by default tensorflow-datasets."
)
WEIGHTS = flags.DEFINE_string(
    "weights", "imagenet", "imagenet, a .keras file of a network, or none."
)
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs; by default the paper's.", lower_bound=1)
TOP_K = flags.DEFINE_integer(
    "top_k", None, "Entries of a row in tables of samples x classes; by default all.", 1
)
MIXED_PRECISION = flags.DEFINE_bool("mixed_precision", False, "Computes in bfloat16.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", None, "Compiles with XLA; by default Keras decides.")
EXPORT = flags.DEFINE_bool("export", False, "Writes each trained student for serving.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "results/transfer", "Folder of the results; the same folder resumes."
)
SMOKE = flags.DEFINE_bool(
    "smoke",
    False,
    "ResNet-50, images of 32 pixels, 2 epochs; without --data_dir made-up images, without a "
    ".keras file random weights.",
)


def read(dataset: str, data_dir: str | None) -> images.Data:
    """The images of a data set."""
    if data_dir is not None:
        return images.from_folders(Path(data_dir) / dataset, test="test")
    return images.from_tfds(*DATASETS[dataset])


def check(datasets: list[str], data_dir: str | None, weights: str) -> None:
    """Rejects what would fail only after hours of training.

    Raises:
        SystemExit: for a data set that needs `--data_dir`, a folder that is missing, and for
            `--weights` that are no file.
    """
    absent = [name for name in datasets if data_dir is None and DATASETS[name] is None]
    if data_dir is not None:
        parts = [(name, split) for name in datasets for split in ("train", "test")]
        absent = [f"{n}/{split}" for n, split in parts if not (Path(data_dir) / n / split).is_dir()]
    if absent:
        raise SystemExit(
            f"A data set is missing. Received: --data_dir={data_dir} without {', '.join(absent)}. "
            "Expected: --data_dir=DIR with <dataset>/train/<class>/<image> and "
            "<dataset>/test/<class>/<image>; tensorflow-datasets has all but aircraft."
        )
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise SystemExit(
            f"--weights is no file. Received: --weights={weights}. Expected: imagenet, none, or "
            "the path of a .keras file."
        )


def papers(dataset: str, settings: dict) -> dict[str, float] | None:
    """The paper's accuracy by method; None where the paper has no such training."""
    as_paper = settings["network"] == "resnet101" and settings["weights"] == "imagenet"
    if not as_paper or settings["epochs"] != SETTINGS["epochs"]:
        return None
    return {method: row[dataset] for method, row in PAPER.items()}


def main(argv):
    options.check_command(argv)
    datasets = options.names("dataset", DATASET.value, list(DATASETS))
    methods = options.names("method", METHOD.value, ALONE)
    made_up = SMOKE.value and DATA_DIR.value is None
    if not made_up:
        check(datasets, DATA_DIR.value, WEIGHTS.value)
    settings = SETTINGS | {
        "network": NETWORK.value,
        "weights": None if WEIGHTS.value == "none" else WEIGHTS.value,
        "epochs": EPOCHS.value or SETTINGS["epochs"],
        "top_k": TOP_K.value,
        "mixed_precision": MIXED_PRECISION.value,
        "jit_compile": JIT_COMPILE.value,
    }
    if SMOKE.value:
        settings |= {"network": "resnet50", "epochs": EPOCHS.value or 2, "image_size": 32}
        settings |= {"batch_size": 16}
        if settings["weights"] == "imagenet":
            settings["weights"] = None
    results = runs.Results(
        Path(OUTPUT_DIR.value + "-smoke" * SMOKE.value) / "results.json", settings
    )

    @lru_cache(maxsize=1)
    def data_of(dataset):
        return images.made_up() if made_up else read(dataset, DATA_DIR.value)

    def one(run, folder, callbacks):
        run = run | {"network": settings["network"]}
        data = data_of(run["dataset"])
        return images.train(run, folder, callbacks, data, settings, EXPORT.value)

    todo = runs.product("dataset", datasets, options.seeds(SEED.value), methods)
    done = runs.train_all(todo, results, one)
    network = settings["network"]
    titles = {dataset: f"{dataset}, top-1 accuracy (%), {network}" for dataset in datasets}
    images.present(results, "dataset", titles, methods, papers, done)
    return 0 if done else runs.INTERRUPTED


if __name__ == "__main__":
    app.run(main)
