"""Contrast of the features of two networks, with memories of all samples (Tian et al., 2020)."""

import random
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lstsd import checks, outputs, taps
from keras_lstsd.class_tables import SamplesByClass
from keras_lstsd.losses import SMALLEST
from keras_lstsd.step import Step
from keras_lstsd.tables import Table, clamp_index, counts, padded
from keras_lstsd.variables import add_state, from_all_replicas, gather

EPSILON = 1e-7


def unit(features: Any) -> Any:
    """Features of length 1, `[..., size]`; zeros stay zeros."""
    # On JAX the gradient of `ops.normalize` is NaN at zeros.
    squares = ops.sum(ops.square(features), axis=-1, keepdims=True)
    return features * ops.rsqrt(ops.maximum(squares, EPSILON**2))


class FeatureTable(Table):
    """One feature of length 1 per training sample; at first a random one.

    Example:
        >>> table = keras_lstsd.contrast.FeatureTable()
        >>> table.build((900, 128))
        >>> table.average([3], keras.ops.ones((1, 128)) / 128**0.5, momentum=0.5)
    """

    seed: int | None = None
    """Of the first rows; None: Keras draws it."""

    def build(self, input_shape: tuple[int, int]) -> None:
        self.width = input_shape[1]
        normal = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed)
        self._make_rows(
            *input_shape, lambda shape, dtype: unit(normal(shape, dtype)), dtype="float32"
        )

    def average(self, index: Any, features: Any, momentum: float, validated: bool = False) -> None:
        """`m <- normalize(a m + (1 - a) u)` for samples int `[batch]` and their features u.

        The row of a feature that is not finite stays.
        """
        rows = gather(self.rows, index if validated else clamp_index(index, self.num_samples)[0])
        mean = unit(momentum * rows + (1 - momentum) * features)
        finite = ops.all(ops.isfinite(mean), axis=-1, keepdims=True)
        self.write(index, ops.where(finite, mean, rows), validated)


@keras.saving.register_keras_serializable("keras_lstsd")
class Contrast(keras.layers.Layer):
    """The loss of Contrastive Representation Distillation (CRD), with its memories.

    A linear layer each maps the features of both networks to vectors u_s and u_t of length 1. Two
    memories keep one such vector per training sample, m_s and m_t. For the student's anchor u_s of
    sample i, v_0 is row i of m_t, and v_1 ... v_K are rows of other samples, drawn at random:

    `x_k = exp(u_s . v_k / T) / Z`

    `l_s = ln(1 + (K/N + eps) / x_0) + sum_k ln(1 + (x_k + eps) / (K/N))`

    with eps = 1e-7, and Z of the first batch: N times the mean of `exp(u_s . v / T)`. l_t has the
    anchor u_t and rows of m_s. The loss of a sample is l_s + l_t. After a step
    `m <- normalize(momentum * m + (1 - momentum) * u)`.

    The draws depend on the seed, the step and the sample only, so a resumed run repeats them.

    Memory: N x `size` x 8 bytes; a step computes a `[batch, N]` matrix.

    Args:
        student_layer: name of the student's layer whose output is compared. None: the layer
            before the last one with weights.
        teacher_layer: the same of the teacher.
        negatives: K, other samples in each anchor's loss.
        temperature: T > 0.
        momentum: share of the old row in a memory, in [0, 1).
        size: entries of u.
        other_classes: whether negatives are samples of other classes only, the "exact" variant.
            The labels are read once before training; they must be one class per sample.

    Raises:
        ValueError: for numbers out of range, networks that are not functional, unknown layers,
            inputs that are mixed of several samples, and labels of one class only.

    Example:
        >>> contrast = keras_lstsd.contrast.Contrast(negatives=4096)
        >>> model = keras_lstsd.CRD(student, teacher, contrast=contrast)

    Source: Tian et al. 2020, Eq. 10 to 19, and its published settings.

    Differences from the paper: the paper's random negatives may be the sample itself; here they
    never are.
    """

    def __init__(
        self,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        negatives: int = 16_384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        size: int = 128,
        other_classes: bool = False,
        name: str = "contrast",
    ):
        super().__init__(dtype="float32", autocast=False, name=name)
        checks.check_distillation(temperature)
        checks.check_momentum(momentum)
        self.student_layer, self.teacher_layer = student_layer, teacher_layer
        self.negatives = checks.count("negatives", negatives)
        self.temperature = temperature
        self.momentum = momentum
        self.size = checks.count("size", size)
        self.other_classes = other_classes
        self.of_student = keras.layers.Dense(self.size, name="student", dtype="float32")
        self.of_teacher = keras.layers.Dense(self.size, name="teacher", dtype="float32")
        self.student_memory = FeatureTable(name="student_memory")
        self.teacher_memory = FeatureTable(name="teacher_memory")
        if other_classes:
            self.samples = SamplesByClass(name="samples_by_class")

    @classmethod
    def of(cls, model: Any, contrast: "Contrast | None", is_used: bool) -> "Contrast":
        """A contrast with these settings for a method, which gets the names of the layers.

        Args:
            model: a method with a teacher.
            contrast: its settings; the memories are new. None: the defaults.
            is_used: whether the loss has it; otherwise its layers are not trained.
        """
        contrast = cls() if contrast is None else cls.from_config(contrast.get_config())
        # The settings keep None: names that Keras gives differ from process to process.
        student = contrast.student_layer or taps.before_head(model.student)
        teacher = contrast.teacher_layer or taps.before_head(model.teacher.network)
        contrast.layers = student, teacher
        contrast.of_student.trainable = contrast.of_teacher.trainable = is_used
        model.taps, model.teacher.taps = (student,), (teacher,)
        for dense, network, layer in (
            (contrast.of_student, model, student),
            (contrast.of_teacher, model.teacher, teacher),
        ):
            features = network.tapped().output.features[layer]
            if None in features.shape[1:]:
                raise ValueError(
                    "The features of CRD must have a fixed size. "
                    f"Received: shape {tuple(features.shape)}. Expected: a layer after a pooling."
                )
            dense.build((None, int(np.prod(features.shape[1:]))))
        seed = keras.initializers.Constant(random.randint(1, 10**9))
        contrast.seed = add_state(contrast, (), seed, "int32", "seed")
        return contrast

    def bytes_for(self, model: Any) -> int:
        """Memory of both memories for a model's samples."""
        return 2 * padded(model.num_samples) * self.size * np.dtype("float32").itemsize

    def attach(self, model: Any) -> None:
        """Makes the memories for a model's samples."""
        checks.check_one_class(model)
        for number, memory in enumerate((self.student_memory, self.teacher_memory)):
            memory.seed = int(ops.convert_to_numpy(self.seed)) + number
            memory.build((model.num_samples, self.size))
        if self.other_classes:
            self.samples.build((model.num_samples, model.num_classes))
        # Z of both anchors; 0 before the first batch.
        self.constants = add_state(self, (2,), "zeros", "float32", "constants")
        self.draws = add_state(self, (), "zeros", "int32", "draws")
        self.built = True

    def loss(self, step: Step, features: Any) -> tuple[Any, Any]:
        """The loss per sample `[batch]`, 0 for an out-of-range index, and what `record` needs.

        Args:
            step: the step, with the student's features.
            features: outputs of the teacher's layers by name.
        """
        if step.mixing is not None:
            raise ValueError(
                "CRD compares single samples with their features. Received: inputs that are mixed "
                "of several samples. Expected: augmentation without MixUp and CutMix."
            )
        student = self._embed(self.of_student, step.features[self.layers[0]])
        teacher = self._embed(self.of_teacher, features[self.layers[1]])
        num_samples = self.student_memory.num_samples
        index, valid = clamp_index(step.sample_index, num_samples)
        # Sums over all rows, weighted by how often each was drawn: the gradient of a gather is a
        # sum in an order that varies from run to run.
        drawn = counts(self._other_samples(index), self.student_memory.rows.shape[0])
        losses, constants = [], []
        pairs = ((student, self.teacher_memory), (teacher, self.student_memory))
        for number, (anchors, memory) in enumerate(pairs):
            rows = ops.convert_to_tensor(memory.rows)
            # Less 1, the largest product, nothing overflows; Z has the same factor.
            near = (ops.sum(anchors * gather(rows, index), axis=-1) - 1) / self.temperature
            far = ops.exp((ops.matmul(anchors, ops.transpose(rows)) - 1) / self.temperature)
            sums = ops.stop_gradient(ops.exp(near) + ops.sum(drawn * far, axis=-1))
            (sums,) = from_all_replicas(sums)
            first = num_samples * ops.mean(sums) / (self.negatives + 1)
            constant = self.constants[number]
            constant = ops.where(constant > 0, constant, ops.maximum(first, SMALLEST))
            share = self.negatives / num_samples
            losses.append(ops.softplus(ops.log((share + EPSILON) * constant) - near))
            losses.append(ops.sum(drawn * ops.log1p((far / constant + EPSILON) / share), axis=-1))
            constants.append(constant)
        return ops.where(valid, sum(losses), 0.0), (student, teacher, ops.stack(constants))

    def record(self, step: Step, memory: Any) -> None:
        """Moves the memories towards the features of the step."""
        student, teacher, constants = memory
        for table, features in ((self.student_memory, student), (self.teacher_memory, teacher)):
            table.average(step.sample_index, features, self.momentum, step.index_validated)
        self.constants.assign(constants)
        self.draws.assign_add(1)

    def read_classes(self, model: Any) -> None:
        """Reads the class of each sample, where negatives are of other classes, once."""
        if self.other_classes and not int(ops.convert_to_numpy(self.draws)):
            self.samples.fill(
                (index, ops.convert_to_numpy(outputs.hard_classes_of(y, model.num_classes)))
                for _, index, y in model.plain_samples()
            )

    def _embed(self, dense: keras.layers.Dense, features: Any) -> Any:
        features = ops.cast(features, "float32")
        return unit(dense(ops.reshape(features, (ops.shape(features)[0], -1))))

    def _other_samples(self, index: Any) -> Any:
        """K rows of other samples for each, int32 `[batch, K]`."""
        drawn = mix(self.seed, self.draws, index[:, None], ops.arange(self.negatives))
        if self.other_classes:
            return self.samples.of_other_classes(index, drawn)
        others = self.student_memory.num_samples - 1
        drawn = ops.cast(drawn % ops.cast(others, "uint32"), "int32")
        return drawn + ops.cast(drawn >= index[:, None], "int32")

    def get_config(self) -> dict:
        names = ("student_layer", "teacher_layer", "negatives", "temperature", "momentum")
        return {name: getattr(self, name) for name in (*names, "size", "other_classes", "name")}


def mix(*words: Any) -> Any:
    """`data.order.mix` inside a step: a 32-bit hash of int32 tensors, uint32."""
    state = ops.cast(0, "uint32")
    for word in words:
        state = state + ops.cast(word, "uint32") + ops.cast(0x9E3779B9, "uint32")
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            state = ops.bitwise_xor(state, ops.bitwise_right_shift(state, shift))
            state = state * ops.cast(factor, "uint32")
        state = ops.bitwise_xor(state, ops.bitwise_right_shift(state, 16))
    return state
