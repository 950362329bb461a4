"""Callbacks of `fit`: at epoch boundaries, and backups in a process that writes no files."""

from typing import Any

import keras

from keras_lstsd import compat


class RotateTeachers(keras.callbacks.Callback):
    """Rotates the teachers of a `Distillation` model at epoch boundaries.

    At the start of an epoch it calls `model.start_epoch()`, which makes the rows recorded in the
    last epoch (and at its boundaries the last mini-generation) the teacher of the next one. At the
    end it calls `model.end_epoch(logs)`, which adds the method's logs and reports bad input. `fit`
    adds it when it is not among the callbacks. In a `keras.callbacks.CallbackList` of your own
    place it first, so that the others see what it logs.

    Raises:
        ValueError: for a model without teachers.

    Example:
        >>> model.fit(x_train, y_train, epochs=12, callbacks=[keras_lstsd.RotateTeachers()])

    Source: Jiang et al. 2020, Algorithm 1, lines 1-2 and 14-16.
    """

    def set_model(self, model):
        super().set_model(model)
        if not hasattr(model, "start_epoch"):
            raise ValueError(
                "`RotateTeachers` needs a model that has teachers. "
                f"Received: {type(model).__name__}. Expected: a method of keras_lstsd around it, "
                "for example `keras_lstsd.LSTSD(model)`."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.model.start_epoch(epoch, (self.params or {}).get("epochs"))

    def on_epoch_end(self, epoch, logs=None):
        self.model.end_epoch({} if logs is None else logs)


class Restores(keras.callbacks.Callback):
    """A `BackupAndRestore` in a process that writes no files.

    Args:
        backup: the callback, whose folder the first process writes.
        resumes: whether the first process restores a backup.
    """

    def __init__(self, backup: keras.callbacks.BackupAndRestore, resumes: bool):
        super().__init__()
        self.backup, self.resumes = backup, resumes
        (self.weights, _), _ = compat.backup_paths(backup)

    def on_train_begin(self, logs=None):
        if not self.resumes:
            return
        if not self.weights.exists():
            raise OSError(
                "The first process resumes from a backup that this process does not find. "
                f"Received: no {self.weights}. Expected: a folder that all processes see."
            )
        self.backup.set_model(self.model)
        self.backup.on_train_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        # Writes nothing; the first process needs the rows of this one.
        self.model.save_weights(self.weights)


def with_rotation(callbacks: Any, model: Any) -> Any:
    """The callbacks with `RotateTeachers` first, so that no bad epoch is backed up."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if not any(isinstance(callback, RotateTeachers) for callback in callbacks.callbacks):
            rotation = RotateTeachers()
            rotation.set_model(model)
            callbacks.callbacks.insert(0, rotation)
        return callbacks
    callbacks = list(keras.tree.flatten(callbacks)) if callbacks is not None else []
    rotations = [callback for callback in callbacks if isinstance(callback, RotateTeachers)]
    others = [callback for callback in callbacks if not isinstance(callback, RotateTeachers)]
    return [*(rotations or [RotateTeachers()]), *others]
