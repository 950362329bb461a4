"""Table 3 of Jiang et al. 2020: LSTSD with fewer teachers, CIFAR-100.

    python -m recipes.table3 --data_dir=DIR --seed=0,1,2

The variants lack the long-term or the short-term teacher, or have one teacher network for all
samples. Takes the flags of `recipes.cifar100`; `--network` selects columns. Finished runs are not
repeated, and an interrupted one is resumed. The table shows the paper's numbers beside the
measured ones.
"""

from absl import app

from recipes import cifar100

METHODS = ("vanilla", "lstsd", "lstsd_without_long", "lstsd_without_short", "single_teacher_lstsd")


def main(argv):
    return cifar100.table(argv, "table3", METHODS, cifar100.PAPER_NETWORKS[:4])


if __name__ == "__main__":
    app.run(main)
