"""Students with classes at several positions of a sample, compared with simulations."""

import keras
import numpy as np
import pytest

import keras_lstsd
from tests.methods.linear import Given, OneEpoch
from tests.models import slow
from tests.oracles import positions as oracle

SAMPLES, TIME, FEATURES, CLASSES, BATCH, EPOCHS, RATE = 12, 4, 3, 3, 5, 5, 0.5
BATCHES = [np.arange(i, min(i + BATCH, SAMPLES)) for i in range(0, SAMPLES, BATCH)]
LENGTHS = [4, 3, 1, 4, 2, 0, 3, 4, 4, 2, 1, 3]
"""Tokens of each sample; sample 5 is padding only."""

KINDS = ("tokens", "token_shares", "labels", "label_logits")

both = pytest.mark.parametrize("jit_compile", [True])
every_kind = pytest.mark.parametrize(
    ("kind", "jit_compile"),
    [("tokens", True), ("label_logits", False)]
    + [slow(*case) for case in (("tokens", False), ("token_shares", True), ("labels", False))],
)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def problem(kind, lengths=LENGTHS):
    """The simulation's data."""
    y = np.random.default_rng(1).integers(0, CLASSES if "token" in kind else 2, (SAMPLES, TIME))
    if "token" in kind:
        x = draw(0, SAMPLES, TIME, FEATURES)
        mask = np.arange(TIME) < np.asarray(lengths)[:, None]
        x[~mask] = 0
        weights = np.random.default_rng(2).uniform(0.2, 2, y.shape)
    else:
        x, y = draw(0, SAMPLES, FEATURES), y[:, :CLASSES]
        mask = np.ones(y.shape, bool)
        weights = np.random.default_rng(2).uniform(0.2, 2, (SAMPLES, 1)) * np.ones(y.shape)
    return oracle.Data(x, y, mask, weights.astype("float32"))


def student(kind, seed=3, masking=True):
    """A linear student of the kind."""
    if "token" in kind:
        layers = [keras.Input((TIME, FEATURES))] + [keras.layers.Masking()] * masking
        layers += [keras.layers.Dense(CLASSES, "softmax" if kind == "token_shares" else None)]
    else:
        layers = [keras.Input((FEATURES,))]
        layers += [keras.layers.Dense(CLASSES, "sigmoid" if kind == "labels" else None)]
    network = keras.Sequential(layers)
    network.set_weights([draw(seed, FEATURES, CLASSES), 0.3 * draw(seed + 1, CLASSES)])
    return network


def simulated(kind, seed=3):
    """The simulation's copy of `student`."""
    cls = oracle.Tokens if "token" in kind else oracle.Labels
    return cls(draw(seed, FEATURES, CLASSES), 0.3 * draw(seed + 1, CLASSES))


def compiled(model, kind, jit_compile):
    losses = keras.losses
    loss = {
        "tokens": losses.SparseCategoricalCrossentropy(from_logits=True),
        "token_shares": losses.CategoricalCrossentropy(),
        "labels": losses.BinaryCrossentropy(),
        "label_logits": losses.BinaryCrossentropy(from_logits=True),
    }[kind]
    model.compile(keras.optimizers.SGD(RATE), loss, jit_compile=jit_compile)
    return model


def targets(kind, data):
    """The labels as the loss takes them."""
    if kind == "token_shares":
        return np.eye(CLASSES, dtype="float32")[data.y]
    return data.y.astype("float32" if kind == "labels" else "int32")


def sample_weights(kind, data):
    return data.weights if "token" in kind else data.weights[:, 0]


class Look(keras.callbacks.Callback):
    """Keeps the weights and the memory at the end of each epoch."""

    def __init__(self, network, memory):
        super().__init__()
        self.network, self.memory, self.found = network, memory, []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append((self.network.get_weights(), self.memory(self.model)))


def rows_of(table):
    """Rows [samples, positions, classes] of a table; NaN where nothing was written."""
    rows, known = table.numpy()
    rows = np.where(np.reshape(known, (-1, 1)), rows, np.nan)
    return rows.reshape(SAMPLES, -1, rows.shape[-1])


def lstsd_memory(model):
    return {name: rows_of(getattr(model, name)) for name in ("long_term", "short_term", "pending")}


def mean_teacher_memory(model):
    copies = [keras.ops.convert_to_numpy(copy) for copy in model.average.copies]
    return dict(zip(("kernel", "bias"), copies, strict=True))


def dups_memory(model):
    rows = np.array(keras.ops.convert_to_numpy(model.class_table.rows))
    return {"class_probabilities": np.where(rows <= 0, np.exp(rows), np.nan)}


def follow(kind, model, method, memory, jit_compile, data, batches=None, weighted=True):
    """Trains `model` and its simulation and compares them after every epoch."""
    network = simulated(kind)
    expected = oracle.train(method, network, data, batches or [BATCHES] * EPOCHS, RATE)
    compiled(model, kind, jit_compile)
    look, logs = Look(model.student, memory), {}
    if batches is None:
        options = {"batch_size": BATCH, "epochs": EPOCHS, "callbacks": [look]}
        weights = sample_weights(kind, data) if weighted else None
        arguments = data.x, targets(kind, data), weights
        logs = fit(model, *arguments, **options)
    else:
        given = Given(data.x, targets(kind, data), batches, sample_weights(kind, data))
        for epoch in range(EPOCHS):
            given.epoch, options = epoch, {"initial_epoch": epoch, "epochs": EPOCHS}
            for name, values in fit(model, given, **options, callbacks=[look, OneEpoch()]).items():
                logs.setdefault(name, []).extend(values)
    compare(expected, look.found, logs, data.mask)


def fit(model, x, y=None, weights=None, **options):
    options |= {"sample_weight": weights, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **options).history


def compare(expected, found, logs, mask):
    """Asserts equal logs, weights and rows; of tables, those of the positions in `mask`."""
    for epoch, (simulation, (weights, memory)) in enumerate(zip(expected, found, strict=True)):
        for name, value in simulation.logs.items():
            close(logs[name][epoch], value, f"{name} {epoch}")
        close(weights[0], simulation.kernel, f"kernel {epoch}")
        close(weights[1], simulation.bias, f"bias {epoch}")
        assert set(memory) == set(simulation.memory)
        for name, value in simulation.memory.items():
            kept = mask if value.ndim == 3 else ...
            close(memory[name][kept], value[kept], f"{name} {epoch}")
    assert abs(expected[-1].logs["distillation_loss"]) > 1e-4
    assert np.abs(expected[-1].kernel - expected[0].kernel).max() > 0.01


def close(found, expected, message):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=message)


@every_kind
@pytest.mark.parametrize("kl", ["reverse", slow("forward")])
def test_lstsd(kind, jit_compile, kl):
    data, settings = problem(kind), (2, 2.4, 4.0, 2.0)
    shape = simulated(kind).shape(*data.y.shape)
    model = keras_lstsd.LSTSD(student(kind), SAMPLES, *settings, kl=kl)
    follow(kind, model, oracle.LSTSD(shape, *settings, kl), lstsd_memory, jit_compile, data)


@every_kind
def test_temporal_ensembling(kind, jit_compile):
    data, settings = problem(kind), (0.6, 4.0, 2.0, "reverse")
    shape = simulated(kind).shape(*data.y.shape)
    model = keras_lstsd.TemporalEnsembling(student(kind), SAMPLES, *settings[:3])
    method = oracle.TemporalEnsembling(shape, *settings)
    follow(kind, model, method, ensemble_memory, jit_compile, data)


def ensemble_memory(model):
    return {"ensemble": rows_of(model.ensemble)}


@every_kind
def test_dups(kind, jit_compile):
    data, settings = problem(kind), (2, 0.8, 0.4, 3.0)
    model = keras_lstsd.DUPS(student(kind), *settings)
    method = oracle.DUPS(simulated(kind), data, *settings)
    follow(kind, model, method, dups_memory, jit_compile, data)


@every_kind
@pytest.mark.parametrize("divergence", ["kl", slow("mse")])
def test_mean_teacher(kind, jit_compile, divergence):
    data = problem(kind)
    settings = {"momentum": 0.8, "weight": 4.0, "temperature": 2.0, "divergence": divergence}
    model = keras_lstsd.MeanTeacher(student(kind), **settings, ramp=0)
    method = oracle.MeanTeacher(simulated(kind), direction="reverse", **settings)
    follow(kind, model, method, mean_teacher_memory, jit_compile, data)


@every_kind
@pytest.mark.parametrize("stored", [False, slow(True)])
def test_knowledge_distillation(kind, jit_compile, stored):
    data, settings = problem(kind), {"alpha": 0.7, "temperature": 3.0}
    teacher = student(kind, seed=20)
    options = {"stored": True, "table_dtype": "float32", "num_samples": SAMPLES} if stored else {}
    model = keras_lstsd.KnowledgeDistillation(student(kind), teacher, **settings, **options)
    method = oracle.KnowledgeDistillation(simulated(kind, seed=20), **settings)
    follow(kind, model, method, lambda model: {}, jit_compile, data)


def irregular():
    """Sample 11 is never drawn, epochs 1 and 3 skip sample 7, another one is drawn twice."""
    epochs = []
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(SAMPLES - 1)
        order = order[order != 7] if epoch in (1, 3) else order
        order = np.append(order, order[0])
        epochs.append([order[i : i + BATCH] for i in range(0, len(order), BATCH)])
    return epochs


@both
@pytest.mark.parametrize("kind", ["tokens", "label_logits"])
@pytest.mark.parametrize("name", ["LSTSD", slow("TemporalEnsembling")])
def test_batches_that_skip_and_repeat_samples(name, kind, jit_compile):
    settings = {"LSTSD": (2, 2.4, 4.0, 2.0), "TemporalEnsembling": (0.6, 4.0, 2.0)}[name]
    data = problem(kind)
    model = getattr(keras_lstsd, name)(student(kind), SAMPLES, *settings)
    shape = simulated(kind).shape(*data.y.shape)
    method = getattr(oracle, name)(shape, *settings, "reverse")
    memory = lstsd_memory if name == "LSTSD" else ensemble_memory
    follow(kind, model, method, memory, jit_compile, data, irregular())


@both
@pytest.mark.parametrize("kind", ["tokens", "label_logits"])
def test_dups_without_a_teacher_for_a_class(kind, jit_compile):
    """Only sample 7 has class 2, or label 0; the last epoch of stage 0 skips it."""
    data = problem(kind)
    alone = data.y == 2 if kind == "tokens" else np.arange(CLASSES)[None] == 0
    y = np.where(alone, 0, data.y)
    y[7] = 2 if kind == "tokens" else 1
    data = data._replace(y=y)
    settings = 2, 0.8, 0.4, 3.0
    model = keras_lstsd.DUPS(student(kind), *settings)
    method = oracle.DUPS(simulated(kind), data, *settings)
    follow(kind, model, method, dups_memory, jit_compile, data, irregular())
    assert np.isnan(method.rows).any()


def lstsd_pair(kind, data, masking=True):
    settings = 2, 2.4, 4.0, 2.0, "reverse"
    model = keras_lstsd.LSTSD(student(kind, masking=masking), SAMPLES, *settings[:4])
    return model, oracle.LSTSD(simulated(kind).shape(*data.y.shape), *settings), lstsd_memory


def dups_pair(kind, data, masking=True):
    settings = 2, 0.8, 0.4, 3.0
    model = keras_lstsd.DUPS(student(kind, masking=masking), *settings)
    return model, oracle.DUPS(simulated(kind), data, *settings), dups_memory


pairs = pytest.mark.parametrize("pair", [lstsd_pair, slow(dups_pair)])


@both
@pairs
def test_a_batch_of_padding(pair, jit_compile):
    """The first batch has no token at all, and the last one has one."""
    data = problem("tokens", [0] * 5 + [3, 4, 2, 4, 1] + [0, 1])
    follow("tokens", *pair("tokens", data), jit_compile, data)


@both
@pairs
@pytest.mark.parametrize("weighted", [False, True])
def test_tokens_without_a_mask(pair, weighted, jit_compile):
    data = problem("tokens", [TIME] * SAMPLES)
    if not weighted:
        data = data._replace(weights=np.ones_like(data.weights))
    follow("tokens", *pair("tokens", data, masking=False), jit_compile, data, weighted=weighted)


@both
@pairs
@pytest.mark.parametrize("kind", ["tokens", "label_logits"])
def test_weights_of_zero(pair, kind, jit_compile):
    """Such positions have no loss, and still teachers, rows and a place in all means."""
    data = problem(kind)
    data.weights[::2] = 0
    follow(kind, *pair(kind, data), jit_compile, data)


OFF = {
    "LSTSD": {"num_samples": SAMPLES, "long_weight": 0, "short_weight": 0},
    "TemporalEnsembling": {"num_samples": SAMPLES, "weight": 0},
    "DUPS": {"student_weight": 1, "teacher_weight": 0},
    "MeanTeacher": {"weight": 0},
    "KnowledgeDistillation": {"alpha": 0},
}


@pytest.mark.parametrize(("kind", "jit_compile"), [("tokens", True), ("labels", True)])
@pytest.mark.parametrize("name", [name if name == "LSTSD" else slow(name) for name in OFF])
def test_without_guidance_training_is_plain_training(name, kind, jit_compile):
    settings, stages = OFF[name], {"LSTSD": 2, "DUPS": 2}
    if name in stages:
        settings = settings | {"mini_generation_epochs": stages[name]}
    if name == "KnowledgeDistillation":
        settings = settings | {"teacher": student(kind, seed=20)}
    data, plain = problem(kind), student(kind)
    model = getattr(keras_lstsd, name)(student(kind), **settings)
    found = []
    for network in (plain, model):
        compiled(network, kind, jit_compile)
        arguments = data.x, targets(kind, data), sample_weights(kind, data)
        found.append(fit(network, *arguments, batch_size=BATCH, epochs=EPOCHS))
    for expected, weight in zip(plain.get_weights(), model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert found[0]["loss"] == found[1]["loss"]
    assert found[0]["loss"][-1] < found[0]["loss"][0]
