"""Table 1 of Jiang et al. 2020: six methods on four ResNets and DenseNet-100, CIFAR-100.

    python -m recipes.table1 --data_dir=DIR --seed=0,1,2

Takes the flags of `recipes.cifar100`; `--network` selects columns, such as
`--network=resnet20,resnet56`. Finished runs are not repeated, and an interrupted one is resumed.
The table shows the paper's numbers beside the measured ones.
"""

from absl import app

from recipes import cifar100

METHODS = (
    "vanilla",
    "mean_teacher",
    "snapshot_ensemble",
    "temporal_ensembling",
    "snapshot_distillation",
    "lstsd",
)


def main(argv):
    return cifar100.table(argv, "table1", METHODS, cifar100.PAPER_NETWORKS)


if __name__ == "__main__":
    app.run(main)
