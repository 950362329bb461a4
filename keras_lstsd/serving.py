"""Export of a `Distillation` as a SavedModel of its student."""

import json
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import ops

from keras_lstsd import compat, outputs
from keras_lstsd.checks import check_class_names


class Serving:
    """A model that exports its student."""

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        probabilities: bool = False,
        class_names: Sequence[str] | None = None,
        **kwargs,
    ):
        """Writes the student for serving: no tables, no teacher, each weight once.

        Takes the arguments of `keras.Model.export`. `served = tf.saved_model.load(filepath)` has
        the endpoint `served.serve(x)`, with the output of `predict(x)`. Keras writes other formats
        and SavedModels of the JAX backend, of the student as it is.

        Where the student is a task of KerasHub, its preprocessor is written beside the graph.
        Clients load it with
        `keras_hub.models.TextClassifierPreprocessor.from_preset(f"{filepath}/assets.extra")`.

        Args:
            input_signature: as in Keras. A student that is a subclass of `keras.Model` does not
                know the dtypes of its inputs; give them here where they are not floats.
            probabilities: return softmax probabilities, float32 `[batch, ..., classes]`, whatever
                the student's last layer; for one unit `[1 - p, p]`, for several labels the
                probability of each, `[batch, labels]`.
            class_names: one name per class. The endpoint then returns a dict: "class_name", the
                name of the most probable class, strings `[batch, ...]`, beside "outputs" or
                "probabilities". A compiled (XLA) caller cannot use it, as XLA has no strings.

        Raises:
            ValueError: for class names that are not one per class or of a multi-label student, for
                a student without weights.
            TypeError: for unknown options.
            NotImplementedError: in another format or on another backend, for these two options,
                and for a method whose `predict` does more than call the student.

        Example:
            >>> names = [f"digit {number}" for number in range(10)]
            >>> model.export("serving/1", probabilities=True, class_names=names)
            >>> served = tf.saved_model.load("serving/1")
            >>> served.serve(x_test)["class_name"]
        """
        if not self.student.built:
            raise ValueError(
                "The student has no weights to export yet. Received: a student that is not built. "
                "Expected: to export after `fit`, or to write `student(x[:1])` before it is "
                "wrapped."
            )
        if class_names is not None:
            if self.positions.multi_label:
                raise ValueError(
                    "`class_names` name the one class of a sample. Received: a student of "
                    f"{self.positions.labels} labels that are independent. Expected: `export` "
                    "without `class_names`; `probabilities=True` gives the probability of each "
                    "label."
                )
            check_class_names(class_names, self.num_classes)
        if format != "tf_saved_model" or keras.backend.backend() != "tensorflow":
            if probabilities or class_names is not None or self.predicts_more_than_student:
                raise NotImplementedError(
                    "`probabilities`, `class_names` and the average of an ensemble are exported "
                    f"only as a SavedModel on TensorFlow. Received: format={format!r} on "
                    f"{keras.backend.backend()}. Expected: to load the saved model with "
                    "KERAS_BACKEND=tensorflow and export it there, or `model.student.export(...)` "
                    "for the student's own outputs."
                )
            return self.student.export(
                filepath, format, verbose=verbose, input_signature=input_signature, **kwargs
            )
        if kwargs:
            # Keras would ignore them, and a misspelt option would be missed only in service.
            raise TypeError(
                "A SavedModel on TensorFlow has no other options. "
                f"Received: {', '.join(kwargs)}. Expected: `probabilities`, `class_names`."
            )

        def serve(inputs):
            served = self.call(inputs, training=False)
            logits = self.shaped_logits_of(served)
            if probabilities:
                served = ops.softmax(logits)
                if self.positions.multi_label:
                    served = served[..., 1]
            if class_names is None:
                return served
            import tensorflow as tf

            name = tf.gather(list(class_names), ops.argmax(logits, axis=-1))
            return {"probabilities" if probabilities else "outputs": served, "class_name": name}

        archive = keras.export.ExportArchive()
        for layer in compat.layers_of(self.student):
            # For lookup tables. Layers with weights are not tracked: Keras would write them twice.
            if layer.built and not layer.variables:
                archive.track(layer)
        signature = input_signature or outputs.input_signature(self.student)
        archive.add_endpoint("serve", serve, signature)
        archive.write_out(filepath, verbose=True if verbose is None else verbose)
        preprocessor = getattr(self.student, "preprocessor", None)
        if hasattr(preprocessor, "save_to_preset"):
            # The folder of a SavedModel for files that are not part of the graph.
            folder = Path(filepath) / "assets.extra"
            preprocessor.save_to_preset(str(folder))
            # `from_preset` finds the preprocessor's class by this file.
            backbone = keras.saving.serialize_keras_object(self.student.backbone)
            (folder / "config.json").write_text(json.dumps(backbone))
