"""All methods by name, with the settings of their papers."""

from dataclasses import dataclass, field
from typing import Any

import keras

from keras_lstsd import (
    CRD,
    DUPS,
    ELR,
    LSTSD,
    PSKD,
    RCO,
    Distillation,
    FeatureMatching,
    KnowledgeDistillation,
    MeanTeacher,
    ProKT,
    SingleTeacherLSTSD,
    SnapshotDistillation,
    SnapshotEnsemble,
    TemporalEnsembling,
    TolerantTeacher,
)
from keras_lstsd.contrast import Contrast


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
    teacher: str | None = None
    """None, "given" (a trained network), "anchors" (of its training) or "trained" (beside)."""

    def length(self, epochs: int) -> dict[str, int]:
        """The arguments that are shares of a training of `epochs`."""
        length = {"mini_generation_epochs": -(-epochs // self.cycles)} if self.cycles else {}
        if "drop_issues_after" in self.arguments:
            length["drop_issues_after"] = max(1, epochs // 4)
        return length

    def settings(self, epochs: int, mini_generation_epochs: int | None = None) -> dict[str, Any]:
        """Arguments for a task with few classes and a training of `epochs`.

        `mini_generation_epochs` replaces the paper's length for LSTSD and its variants.
        """
        settings = self.arguments | self.few_classes | self.length(epochs)
        if mini_generation_epochs and issubclass(self.cls, LSTSD):
            settings["mini_generation_epochs"] = mini_generation_epochs
        return settings

    def wrap(
        self, student: keras.Model, num_samples: int, teacher: Any = None, **settings: Any
    ) -> Distillation:
        """The student in this method.

        Only methods with a memory per sample get `num_samples`, and those that have a `teacher`
        get it: a model, or a list of models as anchors.
        """
        indexed = ("stored", "contrast", "drop_issues_after")
        if self.cls.needs_sample_index or any(settings.get(name) for name in indexed):
            settings["num_samples"] = num_samples
        if self.teacher:
            settings["anchors" if self.teacher == "anchors" else "teacher"] = teacher
        return self.cls(student, **settings)


_T1 = {"temperature": 1.0}
# Shi et al. 2021 on text: only the divergence from the teacher.
_TEXT = {"alpha": 1.0, "temperature": 1.0}
# For a few labels: Laine and Aila 2016 have a weight of 30 times the share of labelled
# samples, Tarvainen and Valpola 2017 one of 100 times it. Here a tenth is labelled.
_FEW_LABELS = {"divergence": "mse", "temperature": 1.0, "ramp": 80}

METHODS = {
    "vanilla": Method(Distillation),
    "label_smoothing": Method(Distillation, label_smoothing=0.1),
    # For wrong labels; a quarter of the epochs.
    "dropping": Method(Distillation, {"drop_issues_after": 15}),
    "mean_teacher": Method(MeanTeacher, few_classes=_T1 | {"ramp": 0}),
    "snapshot_ensemble": Method(SnapshotEnsemble, cycles=5, cyclic=True),
    "temporal_ensembling": Method(TemporalEnsembling, few_classes=_T1),
    "snapshot_distillation": Method(SnapshotDistillation, cycles=5, cyclic=True),
    "dups": Method(DUPS, cycles=10),
    "dups_plus": Method(DUPS, cycles=10, cyclic=True),
    "tolerant_teacher": Method(TolerantTeacher, few_classes={"top_k": 2}),
    "ps_kd": Method(PSKD),
    "elr": Method(ELR),
    "stored_teacher": Method(
        KnowledgeDistillation, {"stored": True}, few_classes=_TEXT, teacher="given"
    ),
    "knowledge_distillation": Method(KnowledgeDistillation, few_classes=_TEXT, teacher="given"),
    "rco": Method(RCO, few_classes=_TEXT, teacher="anchors"),
    "feature_matching": Method(FeatureMatching, teacher="given"),
    "crd": Method(CRD, teacher="given"),
    "prokt": Method(ProKT, teacher="trained"),
    # The losses weigh 1 : 0.8, as in CRD.
    "crd_prokt": Method(ProKT, {"alpha": 0.8 / 1.8, "contrast": Contrast()}, teacher="trained"),
    "single_teacher_lstsd": Method(SingleTeacherLSTSD, few_classes=_T1),
    # Plain training with the tables of LSTSD, for rankings of labels.
    "lstsd_without_teachers": Method(
        LSTSD, {"long_weight": 0.0, "short_weight": 0.0}, few_classes=_T1
    ),
    "lstsd_without_long": Method(LSTSD, {"long_weight": 0.0}, few_classes=_T1),
    "lstsd_without_short": Method(LSTSD, {"short_weight": 0.0}, few_classes=_T1),
    "lstsd_forward_kl": Method(LSTSD, {"kl": "forward"}, few_classes=_T1),
    "temporal_ensembling_mse": Method(TemporalEnsembling, _FEW_LABELS | {"weight": 3.0}),
    "mean_teacher_mse": Method(MeanTeacher, _FEW_LABELS | {"weight": 10.0}),
    # For many classes.
    "lstsd_top_k": Method(LSTSD, {"top_k": 8}, few_classes=_T1),
    # For short trainings.
    "lstsd_ramp": Method(LSTSD, {"ramp": 40}, few_classes=_T1),
    "lstsd": Method(LSTSD, few_classes=_T1),
}

# Those that need no other network.
ALONE = [name for name, method in METHODS.items() if method.teacher is None]
