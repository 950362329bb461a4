import keras
import numpy as np
import pytest

pytest.importorskip("keras_hub")

from keras_hub import models

from keras_lstsd import TinyBERT
from keras_lstsd.backbones import bert_of_layers
from tests.models import slow
from tests.oracles.tiny_bert import loss_of_predictions, losses_of_layers

CLASSES, HEADS = 3, 2
draw = np.random.default_rng(0)
MASK = (np.arange(7) < np.array([7, 4, 5, 2])[:, None]).astype("int32")
INPUTS = {
    "token_ids": draw.integers(1, 20, MASK.shape).astype("int32") * MASK,
    "segment_ids": (np.arange(7) > 2).astype("int32") * MASK,
    "padding_mask": MASK,
}
Y = np.array([0, 1, 2, 1])


def network(layers, width, seed):
    keras.utils.set_random_seed(seed)
    backbone = models.BertBackbone(
        20, layers, HEADS, width, 2 * width, dropout=0.0, max_sequence_length=8
    )
    classifier = models.BertTextClassifier(backbone, CLASSES, dropout=0.0)
    # KerasHub's initial weights are so small that all scores are near 0.
    for variable in classifier.trainable_variables:
        variable.assign(variable + 0.3 * draw.normal(size=variable.shape))
    return classifier


def weights_of(classifier):
    """As the simulation has them."""
    backbone = classifier.backbone

    def pair(layer):
        return [np.array(value, "float64") for value in layer.get_weights()]

    layers = []
    for transformer in backbone.transformer_layers:
        attention = transformer._self_attention_layer
        parts = {
            "query": attention.query_dense,
            "key": attention.key_dense,
            "value": attention.value_dense,
            "output": attention.output_dense,
            "norm1": transformer._self_attention_layer_norm,
            "inner": transformer._feedforward_intermediate_dense,
            "outer": transformer._feedforward_output_dense,
            "norm2": transformer._feedforward_layer_norm,
        }
        layers.append({name: pair(layer) for name, layer in parts.items()})
    named = {"norm": "embeddings_layer_norm", "pooled": "pooled_dense"}
    weights = {name: pair(backbone.get_layer(layer)) for name, layer in named.items()}
    for name in ("token", "position", "segment"):
        (weights[f"{name}s"],) = pair(backbone.get_layer(f"{name}_embedding"))
    return weights | {"layers": layers, "head": pair(classifier.get_layer("logits"))}


def compiled(model, rate=0.0, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, **options)
    return model


def step(model, epoch=0):
    """Logs of one step of the whole batch."""
    logs = model.fit(
        INPUTS, Y, batch_size=4, shuffle=False, initial_epoch=epoch, epochs=epoch + 1, verbose=0
    )
    return {name: values[0] for name, values in logs.history.items()}


CASES = [((1, 4), (2, 4), [1]), ((2, 4), (3, 8), [1, 3]), ((2, 8), (4, 4), None)]


@pytest.mark.parametrize("jit_compile", [False, slow(True)])
@pytest.mark.parametrize(
    ("small", "large", "layer_map"), [slow(*CASES[0]), CASES[1], slow(*CASES[2])]
)
def test_both_stages_have_the_losses_of_the_simulation(small, large, layer_map, jit_compile):
    student, teacher = network(*small, seed=1), network(*large, seed=2)
    model = TinyBERT(student, teacher, layer_map=layer_map, intermediate_epochs=1, temperature=2.0)
    compiled(model, jit_compile=jit_compile)
    projections = [np.array(dense.get_weights()[0], "float64") for dense in model.projections]
    assert bool(projections) is (small[1] != large[1])
    ours, theirs = weights_of(student), weights_of(teacher)
    terms = losses_of_layers(ours, theirs, layer_map or [2, 4], INPUTS, projections)
    logs = step(model)
    for name in ("loss", "distillation_loss"):
        np.testing.assert_allclose(logs[name], sum(terms).mean(), rtol=1e-5)
    assert all(term.min() > 0.01 for term in terms)
    logs = step(model, epoch=1)
    expected = loss_of_predictions(ours, theirs, INPUTS, 2.0).mean()
    for name in ("loss", "distillation_loss"):
        np.testing.assert_allclose(logs[name], expected, rtol=1e-5)


@pytest.mark.parametrize("stage", ["layers", "predictions"])
def test_an_update_follows_the_slope_of_the_simulation(stage):
    """Of float64 differences of the loss along the update, which is -rate times the gradient."""
    student, teacher = network(2, 4, seed=1), network(3, 8, seed=2)
    model = TinyBERT(student, teacher, intermediate_epochs=1 if stage == "layers" else 0)
    rate = 1e-3
    compiled(model, rate)
    theirs = weights_of(teacher)

    def state():
        return weights_of(student), [
            np.array(dense.get_weights()[0], "float64") for dense in model.projections
        ]

    def loss(ours, projections):
        if stage == "layers":
            return sum(losses_of_layers(ours, theirs, [1, 3], INPUTS, projections)).mean()
        return loss_of_predictions(ours, theirs, INPUTS, 1.0).mean()

    before = state()
    step(model)
    after = state()
    change = keras.tree.map_structure(lambda a, b: b - a, before, after)
    squares = sum((part**2).sum() for part in keras.tree.flatten(change))

    def moved(share):
        return loss(*keras.tree.map_structure(lambda a, b: a + share * b, before, change))

    # dL along the change is gradient . change = -|change|^2 / rate.
    slope = (moved(0.01) - moved(-0.01)) / 0.02
    np.testing.assert_allclose(slope, -squares / rate, rtol=1e-3)
    assert squares > 0


def test_padding_does_not_change_the_loss():
    student, teacher = network(1, 4, seed=1), network(2, 8, seed=2)
    losses = []
    for more in (0, 1):
        model = compiled(TinyBERT(student, teacher))
        keras.utils.set_random_seed(0)
        for dense in model.projections:
            dense.set_weights([np.full((4, 8), 0.3)])
        x = {name: np.pad(value, ((0, 0), (0, more))) for name, value in INPUTS.items()}
        losses.append(model.fit(x, Y, batch_size=4, verbose=0).history["loss"][0])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_student_of_chosen_layers_has_their_weights():
    teacher = network(4, 4, seed=2)
    student = bert_of_layers(teacher, [2, 4])
    ours, theirs = weights_of(student), weights_of(teacher)
    theirs["layers"] = [theirs["layers"][1], theirs["layers"][3]]
    keras.tree.map_structure(np.testing.assert_array_equal, ours, theirs)
    student.get_layer("logits").set_weights([np.zeros((4, CLASSES)), np.zeros(CLASSES)])
    assert np.abs(teacher.get_layer("logits").get_weights()[0]).min() > 0
    whole = bert_of_layers(teacher, [1, 2, 3, 4])
    np.testing.assert_allclose(
        whole.predict(INPUTS, verbose=0), teacher.predict(INPUTS, verbose=0), atol=1e-6
    )


@pytest.mark.parametrize("layers", [[], [0], [1, 5]])
def test_layers_that_a_classifier_lacks_are_rejected(layers):
    with pytest.raises(ValueError, match="(?s)`layers`.*Received.*from 1 to 4"):
        bert_of_layers(network(4, 4, seed=2), layers)


@pytest.mark.parametrize("layer_map", [[1], [1, 3], slow([0, 1]), slow([1, 2, 2])])
def test_a_layer_map_that_does_not_fit_is_rejected(layer_map):
    with pytest.raises(ValueError, match="(?s)`layer_map`.*Received.*2 numbers from 1 to 2"):
        TinyBERT(network(2, 4, seed=1), network(2, 4, seed=2), layer_map=layer_map)


def test_other_networks_are_rejected():
    inputs = keras.Input((4,))
    other = keras.Model(inputs, keras.layers.Dense(CLASSES)(inputs))
    with pytest.raises(ValueError, match="(?s)BERT of KerasHub as student.*backbones.bert"):
        TinyBERT(other, network(1, 4, seed=1))
    with pytest.raises(ValueError, match="(?s)BERT of KerasHub as teacher"):
        TinyBERT(network(1, 4, seed=1), other)
    backbone = models.BertBackbone(20, 1, 1, 4, 8, max_sequence_length=8)
    with pytest.raises(ValueError, match="(?s)numbers of heads.*1 heads of the student, 2"):
        TinyBERT(models.BertTextClassifier(backbone, CLASSES), network(1, 4, seed=1))


def test_a_saved_model_has_its_settings_and_weights(tmp_path):
    student, teacher = network(1, 4, seed=1), network(2, 8, seed=2)
    model = compiled(TinyBERT(student, teacher, [2], 3, temperature=2.0), 0.01)
    step(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.layer_map == [2]
    assert (again.intermediate_epochs, again.temperature) == (3, 2.0)
    assert step(again, 1)["loss"] == step(model, 1)["loss"]
