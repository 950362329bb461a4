"""Export of a `Distillation` as a SavedModel of its student."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from keras_lstsd import compat, outputs
from keras_lstsd.checks import check_class_names


def export(
    model: Any,
    filepath: str | Path,
    format: str,
    verbose: Any,
    input_signature: Any,
    probabilities: bool,
    class_names: Sequence[str] | None,
    **kwargs: Any,
) -> None:
    """Writes what `Distillation.export` describes, of its arguments."""
    if not model.student.built:
        raise ValueError(
            "The student has no weights to export yet. Received: a student that is not built. "
            "Expected: to export after `fit`, or to write `student(x[:1])` before it is wrapped."
        )
    if class_names is not None:
        if model.positions.multi_label:
            raise ValueError(
                "`class_names` name the one class of a sample. Received: a student of "
                f"{model.positions.labels} labels that are independent. Expected: `export` without "
                "`class_names`; `probabilities=True` gives the probability of each label."
            )
        check_class_names(class_names, model.num_classes)
    if format != "tf_saved_model" or keras.backend.backend() != "tensorflow":
        if probabilities or class_names is not None or model.predicts_more_than_student:
            raise NotImplementedError(
                "`probabilities`, `class_names` and the average of an ensemble are exported only "
                f"as a SavedModel on TensorFlow. Received: format={format!r} on "
                f"{keras.backend.backend()}. Expected: to load the saved model with "
                "KERAS_BACKEND=tensorflow and export it there, or `model.student.export(...)` for "
                "the student's own outputs."
            )
        return model.student.export(
            filepath, format, verbose=verbose, input_signature=input_signature, **kwargs
        )
    if kwargs:
        # Keras would ignore them, and a misspelt option would be missed only in service.
        raise TypeError(
            "A SavedModel on TensorFlow has no other options. "
            f"Received: {', '.join(kwargs)}. Expected: `probabilities`, `class_names`."
        )

    def serve(inputs):
        served = model.call(inputs, training=False)
        logits = model.shaped_logits_of(served)
        if probabilities:
            served = ops.softmax(logits)
            if model.positions.multi_label:
                served = served[..., 1]
        if class_names is None:
            return served
        import tensorflow as tf

        name = tf.gather(list(class_names), ops.argmax(logits, axis=-1))
        return {"probabilities" if probabilities else "outputs": served, "class_name": name}

    archive = keras.export.ExportArchive()
    for layer in compat.layers_of(model.student):
        # For lookup tables. Layers with weights are not tracked: Keras would write them twice.
        if layer.built and not layer.variables:
            archive.track(layer)
    signature = input_signature or outputs.input_signature(model.student)
    archive.add_endpoint("serve", serve, signature)
    archive.write_out(filepath, verbose=True if verbose is None else verbose)
    preprocessor = getattr(model.student, "preprocessor", None)
    if hasattr(preprocessor, "save_to_preset"):
        # The folder of a SavedModel for files that are not part of the graph.
        folder = Path(filepath) / "assets.extra"
        preprocessor.save_to_preset(str(folder))
        # `from_preset` finds the preprocessor's class by this file.
        backbone = keras.saving.serialize_keras_object(model.student.backbone)
        (folder / "config.json").write_text(json.dumps(backbone))
