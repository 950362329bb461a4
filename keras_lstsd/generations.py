"""Chains of trainings, in which earlier students teach later ones; and their ensemble."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from keras_lstsd import outputs, positions, processes, saving
from keras_lstsd.checks import count
from keras_lstsd.losses import SMALLEST, log_softmax


def train(
    folder: str | Path,
    make: Callable[[int, list[keras.Model]], keras.Model],
    fit: Callable[[keras.Model, list[keras.callbacks.Callback]], Any],
    generations: int,
    seed: int = 0,
) -> list[keras.Model]:
    """Trains a chain of students. An interrupted chain resumes with the same call.

    Each generation's student is stored in `folder/generation_0.keras` and so on, when its
    training has ended; a generation with that file is not trained again. Within a generation,
    `keras.callbacks.BackupAndRestore` resumes after the last finished epoch. A resumed chain
    equals an uninterrupted one bit for bit, where `fit` does.

    With students of one architecture it is a born-again chain, with shrinking ones a chain of
    teacher assistants.

    Args:
        folder: where the students and the backups are stored.
        make: `make(generation, students)` returns a compiled model: a method of keras_lstsd, or a
            plain Keras model. `students` are the finished students of earlier generations.
        fit: `fit(model, callbacks)` trains it with these callbacks.
        generations: how many students, at least 1.
        seed: generation k sets Keras's seed to `seed + k`, before `make`.

    Returns:
        The students, in order; they are not compiled.

    Raises:
        ValueError: for less than one generation.

    Example:
        >>> def make(generation, students):
        ...     model = keras_lstsd.TolerantTeacher(network())
        ...     if students:
        ...         model = keras_lstsd.KnowledgeDistillation(network(), students[-1], 0.4, 1.0)
        ...     model.compile("sgd", "sparse_categorical_crossentropy")
        ...     return model
        >>> def fit(model, callbacks):
        ...     model.fit(x_train, y_train, epochs=300, callbacks=callbacks)
        >>> students = keras_lstsd.generations.train("chain", make, fit, generations=6)
        >>> ensemble = keras_lstsd.generations.Ensemble(students[1:])

    Source: Furlanello et al. 2018; Yang et al. 2019 (generations); Mirzadeh et al. 2020
    (assistants).
    """
    folder = Path(folder)
    students = []
    for generation in range(count("generations", generations)):
        path, backup = folder / f"generation_{generation}.keras", folder / f"backup_{generation}"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            keras.utils.set_random_seed(seed + generation)
            model = make(generation, list(students))
            # It is kept until the student is stored.
            callback = keras.callbacks.BackupAndRestore(
                backup, double_checkpoint=True, delete_checkpoint=False
            )
            fit(model, [callback])
            with saving.replacing(path) as part:
                getattr(model, "student", model).save(part)
        # Until it is stored, other processes must not read it.
        processes.of_first(lambda backup=backup: shutil.rmtree(backup, ignore_errors=True))
        students.append(keras.models.load_model(path, compile=False))
    return students


@keras.saving.register_keras_serializable("keras_lstsd")
class Ensemble(keras.Model):
    """The mean of the probabilities of several classifiers.

    `p(x) = 1/m sum_j softmax(z_j(x))`. It is a Keras model like any other: `predict`, `evaluate`
    (after `compile`), `save`, `export`, and a teacher of later students. Its outputs are
    probabilities: softmax `[batch, classes]`, or one sigmoid unit where all have one unit.

    Args:
        students: built classifiers of the same classes, for the same inputs; methods of
            keras_lstsd stand for their students.
        name: name of the model.

    Raises:
        ValueError: for no students, and for students of different classes.

    Example:
        >>> ensemble = keras_lstsd.generations.Ensemble(students)
        >>> ensemble.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> ensemble.evaluate(x_test, y_test)
    """

    def __init__(self, students: Sequence[keras.Model], name: str | None = None):
        students = [getattr(student, "student", student) for student in students]
        shapes = {outputs.shape(student) for student in students}
        if len(shapes) != 1:
            raise ValueError(
                "An ensemble averages classifiers of the same classes. "
                f"Received: {len(students)} students with outputs of {sorted(shapes)}. Expected: "
                "at least one student, and one shape of outputs."
            )
        (specs,) = outputs.input_signature(students[0])
        inputs = keras.tree.map_structure(
            lambda spec: keras.Input(spec.shape[1:], dtype=spec.dtype, name=spec.name), specs
        )
        members = [_Member(student, name=f"member_{at}") for at, student in enumerate(students)]
        # Sigmoid units, or one logit: two classes for each unit.
        binary = members[0].binary
        many = members[0].positions.multi_label
        logits = _LogMean(binary, many, name="log_mean")([member(inputs) for member in members])
        activation = "sigmoid" if binary else "softmax"
        probabilities = keras.layers.Activation(activation, dtype="float32")(logits)
        super().__init__(inputs, probabilities, name=name)
        self.students = students

    def get_config(self) -> dict:
        students = [keras.saving.serialize_keras_object(student) for student in self.students]
        return {"students": students, "name": self.name}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        students = [
            keras.saving.deserialize_keras_object(student, custom_objects=custom_objects)
            for student in config["students"]
        ]
        return cls(students, config["name"])


class _Member(keras.layers.Layer):
    """A student's log-probabilities, float32 `[batch, ..., classes]`."""

    def __init__(self, student: keras.Model, name: str):
        super().__init__(dtype="float32", autocast=False, name=name)
        self.student = student
        self.from_logits = outputs.ends_in_logits(student)
        self.positions, units = positions.of(student)
        self.binary = units == 1
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        y_pred = self.student(inputs, training=training)
        many = self.positions.multi_label
        return log_softmax(outputs.logits_of(self.student, y_pred, self.from_logits, many))


class _LogMean(keras.layers.Layer):
    """The logarithm of the mean probabilities; of two classes for each unit, its logit."""

    def __init__(self, binary: bool, multi_label: bool, name: str):
        super().__init__(dtype="float32", name=name)
        self.binary = binary
        self.multi_label = multi_label

    def call(self, log_probs: list) -> Any:
        mean = ops.mean(ops.exp(ops.stack(log_probs)), axis=0)
        logits = ops.log(ops.maximum(mean, SMALLEST))
        if not self.binary:
            return logits
        logits = logits[..., 1] - logits[..., 0]
        return logits if self.multi_label else ops.expand_dims(logits, -1)
