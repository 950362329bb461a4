"""Table 3 of Jiang et al. 2020: LSTSD without a teacher, and with one for all, CIFAR-100.

    python -m recipes.table3 --data_dir=DIR --seed=0,1,2

Takes the flags of `recipes.cifar100`; `--network` takes some columns alone. Finished runs are kept
and not repeated, an interrupted one is resumed. The paper's numbers stand beside ours.
"""

from absl import app

from recipes import cifar100

METHODS = ("vanilla", "lstsd", "lstsd_without_long", "lstsd_without_short", "single_teacher_lstsd")


def main(argv):
    return cifar100.table(argv, "table3", METHODS, cifar100.PAPER_NETWORKS[:4])


if __name__ == "__main__":
    app.run(main)
