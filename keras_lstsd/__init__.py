"""Trains a Keras classifier with the guidance of its own past or of a teacher."""

from keras_lstsd import (
    backbones,
    data,
    label_quality,
    losses,
    report,
    saving,
    schedules,
    statistics,
    tables,
    teachers,
)
from keras_lstsd.callbacks import RotateTeachers, TrainingDynamics
from keras_lstsd.distillation import Distillation
from keras_lstsd.label_quality import suspicious_labels
from keras_lstsd.methods import (
    DUPS,
    LSTSD,
    MeanTeacher,
    SingleTeacherLSTSD,
    SnapshotDistillation,
    SnapshotEnsemble,
    TemporalEnsembling,
)
from keras_lstsd.step import Guidance, Step

__all__ = [
    "DUPS",
    "LSTSD",
    "Distillation",
    "Guidance",
    "MeanTeacher",
    "RotateTeachers",
    "SingleTeacherLSTSD",
    "SnapshotDistillation",
    "SnapshotEnsemble",
    "Step",
    "TemporalEnsembling",
    "TrainingDynamics",
    "backbones",
    "data",
    "label_quality",
    "losses",
    "report",
    "saving",
    "schedules",
    "statistics",
    "suspicious_labels",
    "tables",
    "teachers",
]
__version__ = "0.1.0"
