"""CIFAR-100: networks that are taught by a larger one.

    python -m recipes.distill --pair=resnet20:resnet8 --data_dir=DIR

A pair is TEACHER:STUDENT, of the networks of `recipes/networks.py`, with the flags of
`recipes.cifar100`. Without `--pair` the recipe trains the 13 pairs of Shi et al. 2021, Table 1. For
a seed, the teacher is trained once; KD, the stored teacher, RCO (4 anchors) and CRD take it from
its files, and ProKT trains a teacher of its own beside the student. The score is the student's
accuracy on the 10,000 test images after the last epoch.
"""

import re

from absl import app, flags

from recipes import cifar100, options, tables
from recipes.methods import METHODS
from recipes.networks import NETWORKS, PAIRS

PAIR = flags.DEFINE_string(
    "pair", None, "Pairs TEACHER:STUDENT with commas between; by default the paper's."
)
TAUGHT = ("vanilla", "knowledge_distillation", "rco", "crd", "prokt", "crd_prokt")


def pairs(value: str | None) -> list[tuple[str, str]]:
    """The pairs of networks in a flag's value."""
    if value is None:
        return list(PAIRS)
    if not re.fullmatch(r"\w+:\w+(,\w+:\w+)*", value):
        raise SystemExit(
            f"--pair has no pairs of networks. Received: --pair={value}. Expected: "
            "TEACHER:STUDENT, such as --pair=resnet56:resnet20,resnet110:resnet32."
        )
    found = [tuple(pair.split(":")) for pair in value.split(",")]
    for pair in found:
        options.names("pair", ",".join(pair), list(NETWORKS))
    return found


def main(argv):
    cifar100.prepare(argv, ("resnet20",))
    taught = pairs("resnet8:resnet8" if cifar100.SMOKE.value else PAIR.value)
    methods = options.names("method", cifar100.METHOD.value or ",".join(TAUGHT), list(METHODS))
    todo = [
        {"network": network, "teacher": teacher, "method": method, "seed": seed}
        for teacher, network in taught
        for seed in cifar100.seeds()
        for method in methods
    ]

    def text(results):
        parts = []
        for teacher, network in taught:
            name = {"network": network, "teacher": teacher}
            parts += [f"{cifar100.title(network)}, taught by {teacher}.\n{tables.READING}", ""]
            parts += [tables.method_table(results, methods, **name), ""]
        return "\n".join(parts)

    return cifar100.compare(todo, "distill", text)


if __name__ == "__main__":
    app.run(main)
