"""Settings of each method in `recipes.methods.METHODS` for tests."""

from typing import Any

from keras_lstsd.contrast import Contrast

_TWO_EPOCHS = {"mini_generation_epochs": 2}
_NO_TEACHERS = {"long_weight": 0.0, "short_weight": 0.0}
_NO_SHARE = {"alpha": 0.0}
_STUDENT_ONLY = {"student_weight": 1.0, "teacher_weight": 0.0}
_CONTRAST = {"contrast": Contrast(negatives=5, size=4, temperature=0.5)}

TINY: dict[str, dict[str, Any]] = {
    "vanilla": _TWO_EPOCHS,
    "label_smoothing": _TWO_EPOCHS,
    "dropping": {"drop_issues_after": 2},
    "mean_teacher": {"momentum": 0.9, "ramp": 0},
    "snapshot_ensemble": _TWO_EPOCHS | {"keep": 3},
    "temporal_ensembling": {},
    "snapshot_distillation": _TWO_EPOCHS,
    "dups": _TWO_EPOCHS | {"peers": 2},
    "dups_plus": _TWO_EPOCHS,
    "tolerant_teacher": {"top_k": 2},
    "ps_kd": {},
    "elr": {},
    "stored_teacher": {},
    "knowledge_distillation": {},
    "rco": {},
    "feature_matching": {},
    "crd": _CONTRAST,
    "prokt": {},
    "crd_prokt": _CONTRAST,
    "single_teacher_lstsd": _TWO_EPOCHS,
    "lstsd_without_teachers": _TWO_EPOCHS,
    "lstsd_without_long": _TWO_EPOCHS,
    "lstsd_without_short": _TWO_EPOCHS,
    "lstsd_forward_kl": _TWO_EPOCHS,
    "temporal_ensembling_mse": {},
    "mean_teacher_mse": {"momentum": 0.9},
    "lstsd_top_k": _TWO_EPOCHS | {"top_k": 2},
    "lstsd_ramp": _TWO_EPOCHS,
    "lstsd": _TWO_EPOCHS,
}
"""Settings under which a test of a few epochs meets every epoch and stage boundary."""

OFF: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "label_smoothing": {},
    "dropping": {"drop_issues_after": None},
    "mean_teacher": {"weight": 0.0},
    "snapshot_ensemble": {},
    "temporal_ensembling": {"weight": 0.0},
    "snapshot_distillation": _STUDENT_ONLY,
    "dups": _STUDENT_ONLY,
    "dups_plus": _STUDENT_ONLY,
    "tolerant_teacher": {"eta": 1.0},
    "ps_kd": {"final_alpha": 0.0},
    "elr": {"weight": 0.0},
    "stored_teacher": _NO_SHARE,
    "knowledge_distillation": _NO_SHARE,
    "rco": _NO_SHARE,
    "feature_matching": {"distillation_loss_weights": [0.0]},
    "crd": {"weight": 0.0},
    "prokt": _NO_SHARE,
    "crd_prokt": _NO_SHARE,
    "single_teacher_lstsd": _NO_TEACHERS,
    "lstsd_without_teachers": _NO_TEACHERS,
    "lstsd_without_long": _NO_TEACHERS,
    "lstsd_without_short": _NO_TEACHERS,
    "lstsd_forward_kl": _NO_TEACHERS,
    "temporal_ensembling_mse": {"weight": 0.0},
    "mean_teacher_mse": {"weight": 0.0},
    "lstsd_top_k": _NO_TEACHERS,
    "lstsd_ramp": _NO_TEACHERS,
    "lstsd": _NO_TEACHERS,
}
"""Settings under which the student trains as in plain `keras.Model.fit`, bit for bit."""
