"""Students with several outputs, of which one is guided."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_lstsd import compat


def head_of(student: keras.Model, name: str | None) -> Callable[[], keras.Model]:
    """Returns a function whose value is the part of a student that makes the guided output.

    It is the student itself where that has one output, otherwise a model of the same layers.

    Raises:
        ValueError: for a name that the student does not have, or a student without a graph.
    """
    if name is None:
        return lambda: student
    names = names_of(student)
    if name not in names:
        raise ValueError(
            "The student has no such output. "
            f"Received: guided_output={name!r} for a student with the outputs {names}. Expected: "
            "one of them; they are known of models made by `keras.Model(inputs, outputs)`."
        )
    tensor = keras.tree.flatten(student.output)[names.index(name)]
    # A function, as Keras would track the model as a part of the method.
    return functools.cache(lambda: keras.Model(student.input, tensor, name=student.name))


def names_of(student: keras.Model) -> list[str]:
    """Names of the outputs of a functional model, in the order of `keras.tree.flatten`."""
    if not compat.is_functional(student):
        return []
    if isinstance(student.output, dict):
        return sorted(student.output)
    return list(student.output_names)


class Heads:
    """The guided output of a `Distillation`; mixed into it."""

    @property
    def output_names(self) -> list[str] | None:
        """Names of the student's outputs, by which `compile` and `fit` take dicts."""
        return getattr(self.student, "output_names", None)

    def of_guided(self, values: Any) -> Any:
        """Of values for each output, the one of the guided output.

        Args:
            values: a dict by name, or a list or tuple in the order of the outputs; anything else
                is for all of them.
        """
        if self.guided_output is None:
            return values
        if isinstance(values, dict):
            return values.get(self.guided_output)
        if isinstance(values, list | tuple):
            return values[names_of(self.student).index(self.guided_output)]
        return values

    def with_guided(self, values: Any, new: Any, like: Any) -> Any:
        """Values for each output, in the structure `like`, with a new one for the guided output."""
        if self.guided_output is None:
            return new
        names = names_of(self.student)
        if isinstance(values, dict):
            flat = [values.get(name) for name in names]
        else:
            flat = list(values) if isinstance(values, list | tuple) else [values] * len(names)
        flat[names.index(self.guided_output)] = new
        return keras.tree.pack_sequence_as(like, flat)
