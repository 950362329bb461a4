"""Trains a Keras classifier under the guidance of its own past."""

from keras_lstsd import backbones, data, losses, schedules, tables
from keras_lstsd.callbacks import RotateTeachers
from keras_lstsd.methods import LSTSD
from keras_lstsd.self_distillation import SelfDistillation

__all__ = [
    "LSTSD",
    "RotateTeachers",
    "SelfDistillation",
    "backbones",
    "data",
    "losses",
    "schedules",
    "tables",
]
__version__ = "0.1.0"
