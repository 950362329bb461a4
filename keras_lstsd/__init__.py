"""Trains a Keras classifier under the guidance of its own past."""

from keras_lstsd import backbones, data, dynamics, losses, report, schedules, snapshots, tables
from keras_lstsd.callbacks import RotateTeachers
from keras_lstsd.dynamics import TrainingDynamics, suspicious_labels
from keras_lstsd.methods import (
    DUPS,
    LSTSD,
    MeanTeacher,
    SingleTeacherLSTSD,
    SnapshotDistillation,
    SnapshotEnsemble,
    TemporalEnsembling,
)
from keras_lstsd.self_distillation import SelfDistillation

__all__ = [
    "DUPS",
    "LSTSD",
    "MeanTeacher",
    "RotateTeachers",
    "SelfDistillation",
    "SingleTeacherLSTSD",
    "SnapshotDistillation",
    "SnapshotEnsemble",
    "TemporalEnsembling",
    "TrainingDynamics",
    "backbones",
    "data",
    "dynamics",
    "losses",
    "report",
    "schedules",
    "snapshots",
    "suspicious_labels",
    "tables",
]
__version__ = "0.1.0"
