"""TinyBERT (Jiao et al., 2019): the layers of a BERT, then its predictions, are a smaller one's."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_distillation, check_one_class, count
from keras_lstsd.distillation import Distillation
from keras_lstsd.losses import cross_entropy, log_softmax
from keras_lstsd.step import Guidance, Step
from keras_lstsd.taps import SCORES
from keras_lstsd.teachers import Given, set_teacher

EMBEDDINGS = "embeddings_dropout"


def layer_names(network: keras.Model, role: str) -> list[str]:
    """Names for `taps` of the embeddings' output and of all transformer layers, in this order."""
    backbone = getattr(network, "backbone", None)
    names = [] if backbone is None else [layer.name for layer in backbone.layers]
    transformers = [name for name in names if name.startswith("transformer_layer_")]
    if not transformers or EMBEDDINGS not in names:
        raise ValueError(
            f"TinyBERT needs a BERT of KerasHub as {role}. "
            f"Received: {type(network).__name__} {network.name!r}. Expected: a "
            "`keras_hub.models.BertTextClassifier`, as `keras_lstsd.backbones.bert(...)` makes."
        )
    return [f"{backbone.name}/{name}" for name in (EMBEDDINGS, *transformers)]


@keras.saving.register_keras_serializable("keras_lstsd")
class TinyBERT(Distillation):
    """A small BERT learns a large one's layers, then its predictions.

    With the student's layer m and the teacher's layer g(m), over real tokens only:

    - epochs before `intermediate_epochs`: `sum_m MSE(A_m, A'_g(m)) + sum_m MSE(H_m W, H'_g(m))
      + MSE(E V, E')`, with attention scores A before the softmax, outputs H of layers, and E of the
      embeddings. W and V are learned where the widths differ;
    - later epochs: `T^2 * H(p_T, q_T)`, the crossentropy of the predictions, without labels.

    The features come from the one forward pass of each network. For TinyBERT + ProKT train the
    same student in `ProKT` after the first stage.

    Logs: `distillation_loss`.

    Memory: a copy of the teacher's weights.

    Args:
        student: a `keras_hub.models.BertTextClassifier`, such as `backbones.bert(...)`, or
            `backbones.bert_of_layers(teacher, ...)`.
        teacher: a trained one with as many heads, or a `teachers.Given`.
        layer_map: g, the teacher's layer for each layer of the student, from 1. None: evenly
            spaced, as g(m) = 2m for 12 and 6 layers.
        intermediate_epochs: epochs of the first stage. None: all.
        temperature: T > 0, of the second stage.
        teacher_inputs: None, or a function from the student's inputs to the teacher's.
        options: `from_logits` and `name`; see `Distillation`.

    Raises:
        ValueError: for networks without a BERT of KerasHub, another number of heads or of classes,
            and a layer map that does not fit.

    Example:
        >>> student = keras_lstsd.backbones.bert_of_layers(teacher, [2, 4, 6, 8, 10, 12])
        >>> model = keras_lstsd.TinyBERT(student, teacher, intermediate_epochs=3)
        >>> model.compile(keras.optimizers.Adam(5e-5), loss)
        >>> model.fit(keras_lstsd.data.TokenBatches(x, y, batch_size=32), epochs=6)

    Source: Jiao et al. 2019, "TinyBERT", Eq. 7 to 11.

    Differences from the paper: means are over real tokens, where its code counts padding as equal.
    Both stages may have one learning rate here; the code trains them in two runs. The general
    distillation on plain text is left out.
    """

    logged = ("distillation_loss",)

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Given,
        layer_map: Sequence[int] | None = None,
        intermediate_epochs: int | None = None,
        temperature: float = 1.0,
        teacher_inputs: Callable | None = None,
        **options: Any,
    ):
        super().__init__(student, **options)
        check_distillation(temperature)
        set_teacher(self, Given, teacher, teacher_inputs, None)
        self.temperature = temperature
        if intermediate_epochs is not None:
            count("intermediate_epochs", intermediate_epochs, at_least=0)
        self.intermediate_epochs = intermediate_epochs
        network = self.teacher.network
        ours, theirs = layer_names(student, "student"), layer_names(network, "teacher")
        layers = len(ours) - 1, len(theirs) - 1
        if layer_map is None:
            layer_map = [layers[1] * number // layers[0] for number in range(1, layers[0] + 1)]
        self.layer_map = [int(number) for number in layer_map]
        fits = all(1 <= number <= layers[1] for number in self.layer_map)
        if len(self.layer_map) != layers[0] or not fits:
            raise ValueError(
                "`layer_map` must name a layer of the teacher for each layer of the student. "
                f"Received: {list(layer_map)} for {layers[0]} and {layers[1]} layers. Expected: "
                f"{layers[0]} numbers from 1 to {layers[1]}."
            )
        heads = student.backbone.num_heads, network.backbone.num_heads
        if heads[0] != heads[1]:
            raise ValueError(
                "Attention scores of different numbers of heads cannot be compared. Received: "
                f"{heads[0]} heads of the student, {heads[1]} of the teacher. Expected: as many."
            )
        widths = student.backbone.hidden_dim, network.backbone.hidden_dim
        self.projections = [
            keras.layers.Dense(widths[1], use_bias=False, dtype="float32", name=f"to_{name}")
            for name in ("embeddings", "layers")
            if widths[0] != widths[1]
        ]
        for dense in self.projections:
            dense.build((None, None, widths[0]))
        # The layers to compare; the output of the embeddings has the number 0.
        self._pairs = [(ours[m], theirs[g]) for m, g in enumerate([0, *self.layer_map])]
        self._score_pairs = [(f"{m}/{SCORES}", f"{g}/{SCORES}") for m, g in self._pairs[1:]]
        pairs = self._pairs + self._score_pairs
        self.taps = tuple(name for name, _ in pairs)
        self.teacher.taps = tuple(name for _, name in pairs)

    def guidance(self, step: Step) -> Guidance:
        """The loss of the stage, in place of the compiled loss."""
        check_one_class(self)
        logits, features = self.teacher.predict_with_features(step)
        last = self.intermediate_epochs

        def layers():
            return self.loss_of_layers(step, features)

        def predictions():
            teacher = log_softmax(logits, self.temperature)
            loss = cross_entropy(step.logits, teacher, self.temperature)
            return self.temperature**2 * loss

        if last is None:
            return Guidance(layers(), 0.0)
        return Guidance(ops.cond(self._epoch < last, layers, predictions), 0.0)

    def loss_of_layers(self, step: Step, teacher: dict[str, Any]) -> Any:
        """The first stage's loss per sample, `[batch]`."""
        real = ops.cast(step.inputs["padding_mask"], "float32")
        loss = 0.0
        for number, (ours, theirs) in enumerate(self._pairs):
            student, target = (
                ops.cast(it, "float32") for it in (step.features[ours], teacher[theirs])
            )
            if self.projections:
                student = self.projections[min(number, 1)](student)
            loss = loss + _mean_square(student - target, real[:, :, None])
        for ours, theirs in self._score_pairs:
            difference = step.features[ours] - teacher[theirs]
            pairs = real[:, None, :, None] * real[:, None, None, :]
            loss = loss + _mean_square(difference, pairs)
        return loss


def _mean_square(difference: Any, real: Any) -> Any:
    """The mean of squares per sample where `real` is 1, `[batch]`."""
    real = ops.broadcast_to(real, ops.shape(difference))
    axes = tuple(range(1, len(difference.shape)))
    total = ops.sum(real * ops.square(difference), axis=axes)
    # A row of padding alone has no tokens, and adds 0.
    return total / ops.maximum(ops.sum(real, axis=axes), 1.0)
