"""Trains a Keras classifier with the guidance of its own past or of a teacher."""

from keras_lstsd import (
    backbones,
    columns,
    contrast,
    data,
    generations,
    label_issues,
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
from keras_lstsd.callbacks import RotateTeachers
from keras_lstsd.distillation import Distillation
from keras_lstsd.label_issues import find_label_issues
from keras_lstsd.label_quality import suspicious_labels
from keras_lstsd.methods import (
    CRD,
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
    TinyBERT,
    TolerantTeacher,
)
from keras_lstsd.sharding import shard_tables
from keras_lstsd.step import Guidance, Step
from keras_lstsd.training_dynamics import TrainingDynamics

__all__ = [
    "CRD",
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
    "TinyBERT",
    "TolerantTeacher",
    "TrainingDynamics",
    "backbones",
    "columns",
    "contrast",
    "data",
    "find_label_issues",
    "generations",
    "label_issues",
    "label_quality",
    "losses",
    "report",
    "saving",
    "schedules",
    "shard_tables",
    "statistics",
    "suspicious_labels",
    "tables",
    "teachers",
    "top_k",
]
__version__ = "0.1.0"
