"""The callback that tells a model where epochs begin and end."""

import keras


class RotateTeachers(keras.callbacks.Callback):
    """Rotates the teachers of a `SelfDistillation` model at the edges of epochs.

    At the beginning of an epoch it calls `model.begin_epoch()`, which makes what the last epoch
    (and, at its edges, the last mini-generation) recorded the teacher of the next one; at the end
    `model.end_epoch(logs)`, which adds what the method logs and reports bad input. `fit` adds it
    when it is not among the callbacks; in a `keras.callbacks.CallbackList` of your own name it
    first, so that the others see what it adds.

    Raises:
        ValueError: when it is given to a model that has no teachers.

    Example:
        >>> model.fit(x_train, y_train, epochs=12, callbacks=[keras_lstsd.RotateTeachers()])

    Source: Jiang et al. 2020, Algorithm 1, lines 1-2 and 14-16.
    """

    def set_model(self, model):
        super().set_model(model)
        if not hasattr(model, "begin_epoch"):
            raise ValueError(
                "`RotateTeachers` works on a model that has teachers to rotate. "
                f"Received: {type(model).__name__}. Expected: a method of keras_lstsd around it, "
                "for example `keras_lstsd.LSTSD(model, num_samples=len(x_train))`."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.model.begin_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.model.end_epoch({} if logs is None else logs)
