"""All methods by name, with the settings of their papers."""

from dataclasses import dataclass, field
from typing import Any

import keras

from keras_lstsd import (
    DUPS,
    LSTSD,
    Distillation,
    MeanTeacher,
    SingleTeacherLSTSD,
    SnapshotDistillation,
    SnapshotEnsemble,
    TemporalEnsembling,
)


@dataclass(frozen=True)
class Method:
    """A class and its settings; the defaults of the classes are the papers' for CIFAR-100."""

    cls: type[Distillation]
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments that define this variant of the class."""
    few_classes: dict[str, Any] = field(default_factory=dict)
    """Arguments for tasks with few classes (GLUE: T = 1)."""
    cycles: int | None = None
    """Mini-generations in a training, where the paper fixes their number and not their length."""
    cyclic: bool = False
    """Whether the learning rate is a cosine that restarts with each mini-generation."""
    label_smoothing: float = 0.0
    """Label smoothing of the compiled loss."""

    def length(self, epochs: int) -> dict[str, int]:
        """The argument that makes `cycles` mini-generations of a training of `epochs`."""
        return {"mini_generation_epochs": -(-epochs // self.cycles)} if self.cycles else {}

    def settings(self, epochs: int) -> dict[str, Any]:
        """Arguments for a task with few classes and a training of `epochs`."""
        return self.arguments | self.few_classes | self.length(epochs)

    def wrap(self, student: keras.Model, num_samples: int, **settings: Any) -> Distillation:
        """The student in this method; only methods with a memory per sample get `num_samples`."""
        if self.cls.needs_sample_index:
            settings["num_samples"] = num_samples
        return self.cls(student, **settings)


_T1 = {"temperature": 1.0}

METHODS = {
    "vanilla": Method(Distillation),
    "label_smoothing": Method(Distillation, label_smoothing=0.1),
    "mean_teacher": Method(MeanTeacher, few_classes=_T1),
    "snapshot_ensemble": Method(SnapshotEnsemble, cycles=5, cyclic=True),
    "temporal_ensembling": Method(TemporalEnsembling, few_classes=_T1),
    "snapshot_distillation": Method(SnapshotDistillation, cycles=5, cyclic=True),
    "dups": Method(DUPS, cycles=10),
    "dups_plus": Method(DUPS, cycles=10, cyclic=True),
    "single_teacher_lstsd": Method(SingleTeacherLSTSD, few_classes=_T1),
    # Plain training with the tables of LSTSD, for rankings of labels.
    "lstsd_without_teachers": Method(
        LSTSD, {"long_weight": 0.0, "short_weight": 0.0}, few_classes=_T1
    ),
    "lstsd_without_long": Method(LSTSD, {"long_weight": 0.0}, few_classes=_T1),
    "lstsd_without_short": Method(LSTSD, {"short_weight": 0.0}, few_classes=_T1),
    # For short trainings.
    "lstsd_ramp": Method(LSTSD, {"ramp": 2.0}, few_classes=_T1),
    "lstsd": Method(LSTSD, few_classes=_T1),
}
