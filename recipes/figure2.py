"""Figure 2 of Jiang et al. 2020: accuracy of LSTSD by the length of a mini-generation, CIFAR-100.

    python -m recipes.figure2 --data_dir=DIR --seed=0,1,2

Takes the flags of `recipes.cifar100`, and `--lengths`. In the paper, accuracy rises from 1 to 6
epochs and falls slowly to 40; the paper prints no numbers. Finished runs are not repeated, and an
interrupted one is resumed.
"""

from absl import app, flags

from keras_lstsd.statistics import spread
from recipes import cifar100, tables

LENGTHS = flags.DEFINE_list("lengths", "1,2,4,6,10,20,40", "Epochs of a mini-generation.")


def main(argv):
    networks = cifar100.prepare(argv, ("resnet20",))
    lengths = [int(length) for length in LENGTHS.value]
    todo = [
        run | {"mini_generation_epochs": length}
        for length in lengths
        for run in cifar100.product(networks, ["lstsd"])
    ]

    def table(results):
        rows = []
        for length in lengths:
            row = [str(length)]
            for network in networks:
                scores = results.scores(
                    network=network, method="lstsd", mini_generation_epochs=length
                )
                row.append(spread(list(scores.values())))
            rows.append(row)
        text = "CIFAR-100, test accuracy of LSTSD (%), mean +- std over the seeds, by the epochs of"
        return f"{text}\na mini-generation.\n\n{tables.markdown(['epochs', *networks], rows)}\n"

    return cifar100.compare(todo, "figure2", table)


if __name__ == "__main__":
    app.run(main)
