"""One file per paper."""

from keras_lstsd.methods.crd import CRD
from keras_lstsd.methods.dups import DUPS
from keras_lstsd.methods.elr import ELR
from keras_lstsd.methods.feature_matching import FeatureMatching
from keras_lstsd.methods.knowledge_distillation import KnowledgeDistillation
from keras_lstsd.methods.lstsd import LSTSD
from keras_lstsd.methods.mean_teacher import MeanTeacher
from keras_lstsd.methods.prokt import ProKT
from keras_lstsd.methods.ps_kd import PSKD
from keras_lstsd.methods.rco import RCO
from keras_lstsd.methods.single_teacher_lstsd import SingleTeacherLSTSD
from keras_lstsd.methods.snapshot_distillation import SnapshotDistillation
from keras_lstsd.methods.snapshot_ensemble import SnapshotEnsemble
from keras_lstsd.methods.temporal_ensembling import TemporalEnsembling
from keras_lstsd.methods.tiny_bert import TinyBERT
from keras_lstsd.methods.tolerant_teacher import TolerantTeacher

__all__ = [
    "CRD",
    "DUPS",
    "ELR",
    "LSTSD",
    "PSKD",
    "RCO",
    "FeatureMatching",
    "KnowledgeDistillation",
    "MeanTeacher",
    "ProKT",
    "SingleTeacherLSTSD",
    "SnapshotDistillation",
    "SnapshotEnsemble",
    "TemporalEnsembling",
    "TinyBERT",
    "TolerantTeacher",
]
