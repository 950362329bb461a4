"""The callback at epoch boundaries."""

import keras


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
