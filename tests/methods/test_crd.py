import keras
import numpy as np
import pytest

from keras_lstsd import CRD, ProKT
from keras_lstsd.contrast import Contrast
from tests.methods.linear import RATE, SAMPLES, Given, irregular_batches, problem
from tests.methods.test_feature_matching import compiled, network
from tests.models import slow
from tests.oracles.crd import crd

X, Y = problem()
SETTINGS = {"negatives": 6, "temperature": 0.8, "momentum": 0.5, "size": 8}
LAYERS = {"student_layer": "body/hidden", "teacher_layer": "body/hidden"}
# A mean of two opposite unit vectors has no direction, and near it rounding is enlarged.
RATE = RATE / 10


def drawn(contrast, batches):
    """The negatives of each step, as the contrast draws them."""
    for number, index in enumerate(index for steps in batches for index in steps):
        contrast.draws.assign(number)
        yield keras.ops.convert_to_numpy(contrast._other_samples(np.asarray(index, "int32")))
    contrast.draws.assign(0)


def follow(model, teacher, jit_compile, **settings):
    """Trains a method with a contrast, and its simulation, on the same batches and negatives."""
    batches = irregular_batches()
    compiled(model, optimizer=keras.optimizers.SGD(RATE), jit_compile=jit_compile)
    model.make_memory()
    contrast = model.contrast
    memories = [
        np.array(keras.ops.convert_to_numpy(table.rows))[:SAMPLES]
        for table in (contrast.student_memory, contrast.teacher_memory)
    ]
    layers = contrast.of_student.get_weights() + contrast.of_teacher.get_weights()
    expected = crd(
        X,
        Y,
        batches,
        model.student.get_weights(),
        teacher.get_weights(),
        layers,
        memories,
        list(drawn(contrast, batches)),
        RATE,
        temperature=SETTINGS["temperature"],
        momentum=SETTINGS["momentum"],
        **settings,
    )
    data = Given(X, Y, batches)
    for epoch, oracle in enumerate(expected):
        data.epoch = epoch
        logs = model.fit(data, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0)
        for name, value in oracle.logs.items():
            np.testing.assert_allclose(logs.history[name], [value], atol=1e-5, err_msg=name)
        wanted = [oracle.kernel, oracle.bias, oracle.memory["w2"], oracle.memory["b2"]]
        found = model.student.get_weights()
        wanted += oracle.memory["layers"]
        found += contrast.of_student.get_weights() + contrast.of_teacher.get_weights()
        wanted += oracle.memory["teacher_weights"]
        found += model.teacher.network.get_weights()
        for name in ("student", "teacher"):
            rows = getattr(contrast, f"{name}_memory").rows
            found.append(keras.ops.convert_to_numpy(rows)[:SAMPLES])
            wanted.append(oracle.memory[name])
        for value, right in zip(found, wanted, strict=True):
            np.testing.assert_allclose(value, right, atol=1e-5)
    return expected


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
@pytest.mark.parametrize("kd_weight", [0.0, slow(0.7)])
def test_training_follows_the_simulation(jit_compile, kd_weight):
    student, teacher = network(3), network(6, seed=1)
    options = {"contrast": Contrast(**LAYERS, **SETTINGS), "num_samples": SAMPLES}
    model = CRD(student, teacher, kd_weight=kd_weight, kd_temperature=3.0, **options)
    expected = follow(model, teacher, jit_compile, kd_weight=kd_weight, kd_temperature=3.0)
    assert expected[-1].logs["distillation_loss"] > 0.1


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
def test_with_prokt_training_follows_the_simulation(jit_compile):
    student, teacher = network(3), network(6, seed=1)
    options = {"contrast": Contrast(**LAYERS, **SETTINGS), "num_samples": SAMPLES}
    model = ProKT(student, teacher, projection=0.4, alpha=0.6, **options)
    settings = {"weight": 0.6, "task_weight": 0.4, "projection": 0.4}
    follow(model, teacher, jit_compile, **settings)
