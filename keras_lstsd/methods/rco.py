"""Route-constrained optimization, RCO (Jin et al., ICCV 2019)."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
from keras import ops

from keras_lstsd.methods.knowledge_distillation import KnowledgeDistillation
from keras_lstsd.teachers import Given


@keras.saving.register_keras_serializable("keras_lstsd")
class RCO(KnowledgeDistillation):
    """Knowledge distillation from checkpoints of the teacher's own training, one after another.

    The loss is that of `KnowledgeDistillation`. With A anchors, the teacher of epoch t = 1..T of
    a `fit` is anchor `ceil(t A / T) - 1`: each has an equal share of the epochs, and the last epoch
    has the last one.

    Logs: as `KnowledgeDistillation`.

    Memory: the anchors on the host, and one copy of the teacher's weights on the device.

    Args:
        student: a Keras classifier; see `Distillation`.
        anchors: the teacher in order of its training, the trained one last: models of one
            architecture, or files of weights (`.weights.h5`) or of models (`.keras`).
        alpha: share of the teacher in the loss, in [0, 1].
        temperature: T > 0, for both sides.
        teacher: a model of the anchors' architecture, into which files of weights are loaded;
            its own weights stay. None where the anchors are models or `.keras` files.
        teacher_inputs: None, or a function from the student's inputs to the teacher's.
        teacher_from_logits: whether the teacher's outputs are logits. None: decided by its last
            layer.
        from_logits, guided_output, drop_issues_after, name: see `Distillation`.

    Raises:
        ValueError: as `KnowledgeDistillation`; for no anchors, for anchors of several
            architectures, for files of weights without `teacher`.

    Example:
        >>> anchors = sorted(Path("teacher").glob("epoch_*.weights.h5"))
        >>> model = keras_lstsd.RCO(student, anchors, teacher=teacher)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=64, epochs=240)

    Source: Jin et al. 2019; 4 anchors and equal shares as Shi et al. 2021 compare it.

    Differences from the paper: Jin et al. also choose anchors by a greedy search.
    """

    def __init__(
        self,
        student: keras.Model,
        anchors: Sequence[keras.Model | str | Path] | Given,
        alpha: float = 0.9,
        temperature: float = 4.0,
        teacher: keras.Model | None = None,
        teacher_inputs: Callable | None = None,
        teacher_from_logits: bool | None = None,
        from_logits: bool | None = None,
        guided_output: str | None = None,
        drop_issues_after: int | None = None,
        name: str | None = None,
    ):
        if not isinstance(anchors, Given):
            network, weights = _weights_of(anchors, teacher)
            anchors = Given(network, teacher_inputs, teacher_from_logits, weights)
        options = {"from_logits": from_logits, "guided_output": guided_output, "name": name}
        options["drop_issues_after"] = drop_issues_after
        super().__init__(student, anchors, alpha, temperature, **options)

    @property
    def anchors(self) -> Given:
        """The teacher, with its anchors."""
        return self.teacher

    def on_epoch_start(self, epoch: int) -> None:
        """Anchor ceil(t A / T) - 1 becomes the teacher."""
        count = self.teacher.num_anchors
        progress = round(count * float(ops.convert_to_numpy(self.progress)), 3)
        self.teacher.use(max(math.ceil(progress), 1) - 1)


def _weights_of(anchors: Sequence, teacher: keras.Model | None) -> tuple[keras.Model, list]:
    """A network of the anchors' architecture, and the weights of each anchor."""
    if isinstance(anchors, str | Path) or not len(anchors):
        raise ValueError(
            "`anchors` must be a list of models or files, in order of training. "
            f"Received: anchors={anchors!r}. Expected: at least one, for example "
            "`anchors=[early, late]`."
        )
    weights = []
    own = None if teacher is None else teacher.get_weights()
    try:
        for anchor in anchors:
            if not isinstance(anchor, keras.Model):
                anchor = _loaded(anchor, teacher)
            anchor = getattr(anchor, "student", anchor)
            network = anchor if teacher is None else teacher
            weights.append(anchor.get_weights())
            shapes = [[weight.shape for weight in anchor] for anchor in (weights[0], weights[-1])]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    "All anchors must be one network at several times of its training. Received: "
                    f"anchor {len(weights) - 1} with other shapes of weights than anchor 0. "
                    "Expected: models of one architecture."
                )
    finally:
        if teacher is not None:
            teacher.set_weights(own)
    return network, weights


def _loaded(path: str | Path, teacher: keras.Model | None) -> keras.Model:
    if str(path).endswith(".keras"):
        return keras.models.load_model(path, compile=False)
    if teacher is None:
        raise ValueError(
            f"A file of weights does not contain its network. Received: {str(path)!r}, "
            "teacher=None. Expected: `RCO(student, anchors, teacher=network)`, with a network of "
            "the anchors' architecture, or `.keras` files."
        )
    teacher.load_weights(path)
    return teacher
