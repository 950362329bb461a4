"""One file per paper."""

from keras_lstsd.methods.dups import DUPS
from keras_lstsd.methods.lstsd import LSTSD
from keras_lstsd.methods.mean_teacher import MeanTeacher
from keras_lstsd.methods.single_teacher_lstsd import SingleTeacherLSTSD
from keras_lstsd.methods.snapshot_distillation import SnapshotDistillation
from keras_lstsd.methods.snapshot_ensemble import SnapshotEnsemble
from keras_lstsd.methods.temporal_ensembling import TemporalEnsembling

__all__ = [
    "DUPS",
    "LSTSD",
    "MeanTeacher",
    "SingleTeacherLSTSD",
    "SnapshotDistillation",
    "SnapshotEnsemble",
    "TemporalEnsembling",
]
