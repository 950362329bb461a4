"""Trains a Keras classifier with the guidance of its own past or of a teacher."""

from keras_lstsd import (
    backbones,
    data,
    generations,
    label_quality,
    losses,
    report,
    saving,
    schedules,
    statistics,
    tables,
    teachers,
    top_k,
)
from keras_lstsd.callbacks import RotateTeachers, TrainingDynamics
from keras_lstsd.distillation import Distillation
from keras_lstsd.label_quality import suspicious_labels
from keras_lstsd.methods import (
    DUPS,
    ELR,
    LSTSD,
    PSKD,
    RCO,
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
from keras_lstsd.step import Guidance, Step

__all__ = [
    "DUPS",
    "ELR",
    "LSTSD",
    "PSKD",
    "RCO",
    "Distillation",
    "FeatureMatching",
    "Guidance",
    "KnowledgeDistillation",
    "MeanTeacher",
    "ProKT",
    "RotateTeachers",
    "SingleTeacherLSTSD",
    "SnapshotDistillation",
    "SnapshotEnsemble",
    "Step",
    "TemporalEnsembling",
    "TolerantTeacher",
    "TrainingDynamics",
    "backbones",
    "data",
    "generations",
    "label_quality",
    "losses",
    "report",
    "saving",
    "schedules",
    "statistics",
    "suspicious_labels",
    "tables",
    "teachers",
    "top_k",
]
__version__ = "0.1.0"
