"""Trains a Keras classifier under the guidance of its own past."""

from keras_lstsd import backbones, data, losses, schedules, snapshots, tables
from keras_lstsd.callbacks import RotateTeachers
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
    "backbones",
    "data",
    "losses",
    "schedules",
    "snapshots",
    "tables",
]
__version__ = "0.1.0"
