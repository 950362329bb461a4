"""All methods by name, with the settings that recipes and tests use."""

from dataclasses import dataclass, field
from typing import Any

from keras_lstsd.methods.dups import DUPS
from keras_lstsd.methods.lstsd import LSTSD
from keras_lstsd.methods.mean_teacher import MeanTeacher
from keras_lstsd.methods.single_teacher_lstsd import SingleTeacherLSTSD
from keras_lstsd.methods.snapshot_distillation import SnapshotDistillation
from keras_lstsd.methods.snapshot_ensemble import SnapshotEnsemble
from keras_lstsd.methods.temporal_ensembling import TemporalEnsembling
from keras_lstsd.self_distillation import SelfDistillation


@dataclass(frozen=True)
class Method:
    """A class and its settings. What is not said here is the class's default: the paper's for
    CIFAR-100."""

    cls: type[SelfDistillation]
    arguments: dict[str, Any] = field(default_factory=dict)
    """What makes it this method."""
    few_classes: dict[str, Any] = field(default_factory=dict)
    """Where a task has few classes (GLUE: T = 1)."""
    cycles: int | None = None
    """Mini-generations of a training, where that is what the paper fixes."""
    cyclic: bool = False
    """Whether the learning rate is a cosine that starts again at each mini-generation."""
    label_smoothing: float = 0.0
    """Of the compiled loss."""
    tiny: dict[str, Any] = field(default_factory=dict)
    """Under which a test of a few epochs meets every edge."""
    off: dict[str, Any] = field(default_factory=dict)
    """Under which it trains as plain `keras.Model.fit` does."""

    @property
    def guides(self) -> bool:
        """Whether the student's past has a say in its loss."""
        return bool(self.cls.logged) and not self.off.items() <= self.arguments.items()

    def length(self, epochs: int) -> dict[str, int]:
        """The argument that makes `cycles` mini-generations of so many epochs."""
        return {"mini_generation_epochs": -(-epochs // self.cycles)} if self.cycles else {}

    def settings(self, epochs: int) -> dict[str, Any]:
        """Arguments for a task with few classes, for a training of that many epochs."""
        return self.arguments | self.few_classes | self.length(epochs)


_SOFT = {"temperature": 1.0}
_E2 = {"mini_generation_epochs": 2}
_NO_TEACHERS = {"long_weight": 0.0, "short_weight": 0.0}
_STUDENT_ALONE = {"student_weight": 1.0, "teacher_weight": 0.0}

METHODS = {
    "vanilla": Method(SelfDistillation, tiny=_E2),
    "label_smoothing": Method(SelfDistillation, label_smoothing=0.1, tiny=_E2),
    "mean_teacher": Method(
        MeanTeacher, few_classes=_SOFT, tiny={"momentum": 0.9}, off={"weight": 0.0}
    ),
    "snapshot_ensemble": Method(SnapshotEnsemble, cycles=5, cyclic=True, tiny=_E2 | {"keep": 3}),
    "temporal_ensembling": Method(TemporalEnsembling, few_classes=_SOFT, off={"weight": 0.0}),
    "snapshot_distillation": Method(
        SnapshotDistillation, cycles=5, cyclic=True, tiny=_E2, off=_STUDENT_ALONE
    ),
    "dups": Method(DUPS, cycles=10, tiny=_E2 | {"peers": 2}, off=_STUDENT_ALONE),
    "dups_plus": Method(DUPS, cycles=10, cyclic=True, tiny=_E2, off=_STUDENT_ALONE),
    "single_teacher_lstsd": Method(
        SingleTeacherLSTSD, few_classes=_SOFT, tiny=_E2, off=_NO_TEACHERS
    ),
    # Plain training that remembers what it thought of each sample.
    "lstsd_without_teachers": Method(
        LSTSD, _NO_TEACHERS, few_classes=_SOFT, tiny=_E2, off=_NO_TEACHERS
    ),
    "lstsd_without_long": Method(
        LSTSD, {"long_weight": 0.0}, few_classes=_SOFT, tiny=_E2, off=_NO_TEACHERS
    ),
    "lstsd_without_short": Method(
        LSTSD, {"short_weight": 0.0}, few_classes=_SOFT, tiny=_E2, off=_NO_TEACHERS
    ),
    "lstsd": Method(LSTSD, few_classes=_SOFT, tiny=_E2, off=_NO_TEACHERS),
}
