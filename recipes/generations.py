"""CIFAR-100: generations of one network, each taught by the one before.

    python -m recipes.generations --network=resnet20 --generations=6 --data_dir=DIR

Chains, as in Yang et al. 2019: `baseline` is one plain network; `born_again` is taught from
generation 1 on, with lambda = 0.6, after a plain generation 0; `tolerant_0.6` and `tolerant_0.7`
have a tolerant generation 0 with that eta, D(0.6, 0.6) and D(0.7, 0.6) in the paper. The score is
the accuracy of the last generation on the test images; the ensemble averages the generations 1 to
the last. The flags of `recipes.cifar100` apply. An interrupted chain resumes.
"""

from pathlib import Path

from absl import app, flags

from keras_lstsd import generations
from keras_lstsd.statistics import spread
from recipes import cifar100, options, tables
from recipes.methods import METHODS, Method
from recipes.networks import student

GENERATIONS = flags.DEFINE_integer("generations", 6, "Generations of a chain.", 2)
# Share of the labels in the loss of a taught generation; T = 1.
LAMBDA = 0.6
CHAINS = {
    "baseline": METHODS["vanilla"],
    "born_again": METHODS["vanilla"],
    "tolerant_0.6": Method(METHODS["tolerant_teacher"].cls, {"eta": 0.6}),
    "tolerant_0.7": Method(METHODS["tolerant_teacher"].cls, {"eta": 0.7}),
}


def train(run: dict, folder: Path, callbacks: list, data: cifar100.Data, settings: dict) -> dict:
    """Trains one chain; the score is the test accuracy of its last generation in %."""
    task = cifar100.Task(run, data, settings)
    first, taught = CHAINS[run["method"]], METHODS["knowledge_distillation"]
    count = 1 if run["method"] == "baseline" else GENERATIONS.value

    def make(generation, students):
        network = student(run["network"])
        if not students:
            return task.compiled(first, network, **first.arguments)
        return task.compiled(
            taught, network, teacher=students[-1], alpha=1 - LAMBDA, temperature=1.0
        )

    students = generations.train(folder / "chain", make, task.fit, count, 1000 * run["seed"])
    by_generation = [task.measures(student) for student in students]
    outcome = by_generation[-1] | {"generations": by_generation}
    if count > 1:
        outcome["ensemble"] = task.measures(generations.Ensemble(students[1:]))
    return outcome


def generation_table(results, chains: list[str], network: str) -> str:
    """The accuracy of each generation, and of the ensemble."""
    rows = []
    for chain in chains:
        stored = [it for it in results.runs if it["run"] | {"seed": 0} == run_of(network, chain, 0)]
        columns = [
            [it["generations"][number]["score"] for it in stored if number < len(it["generations"])]
            for number in range(GENERATIONS.value)
        ]
        columns.append([it["ensemble"]["score"] for it in stored if "ensemble" in it])
        rows.append([chain, *map(spread, columns)])
    names = [f"generation {number}" for number in range(GENERATIONS.value)]
    return tables.markdown(["chain", *names, "ensemble"], rows)


def run_of(network: str, chain: str, seed: int) -> dict:
    """The run of a chain."""
    return {"network": network, "method": chain, "seed": seed}


def main(argv):
    (network,) = cifar100.prepare(argv, ("resnet20",))[:1]
    chains = options.names("method", cifar100.METHOD.value or "all", list(CHAINS))
    todo = [run_of(network, chain, seed) for seed in cifar100.seeds() for chain in chains]

    def text(results):
        heading = f"{cifar100.title(network)}: each generation of a chain, mean +- std."
        return f"{heading}\n\n{generation_table(results, chains, network)}\n"

    return cifar100.compare(todo, "generations", text, train=train)


if __name__ == "__main__":
    app.run(main)
