"""Reference simulations of one-generation self-distillation, in NumPy (float64) only.

The student is linear: logits = x @ kernel + bias, trained with plain SGD on sparse labels.
All gradients are written out by hand; teachers are constants. Each simulator takes
`(x, y, batches, kernel, bias, learning_rate, ...)`, where `batches` holds one list of index
arrays per epoch and `learning_rate` is a number or a function of the step (from 0). It
returns one `Epoch` per epoch. A batch's loss is the mean over all its samples: a sample
without a teacher adds 0 to the guidance and still counts in the mean.
"""

from tests.oracles.common import (
    Epoch,
    Means,
    cross_entropy,
    has_row,
    inputs,
    kl,
    log_softmax,
    mse,
    sgd,
    softmax,
    unwritten,
)
from tests.oracles.dups import dups
from tests.oracles.lstsd import lstsd, timeline
from tests.oracles.mean_teacher import mean_teacher
from tests.oracles.single_teacher_lstsd import single_teacher
from tests.oracles.snapshot_distillation import snapshot_distillation
from tests.oracles.snapshot_ensemble import cyclic_cosine, snapshot_ensemble_predict
from tests.oracles.temporal_ensembling import temporal_ensembling

__all__ = [
    "Epoch",
    "Means",
    "cross_entropy",
    "cyclic_cosine",
    "dups",
    "has_row",
    "inputs",
    "kl",
    "log_softmax",
    "lstsd",
    "mean_teacher",
    "mse",
    "sgd",
    "single_teacher",
    "snapshot_distillation",
    "snapshot_ensemble_predict",
    "softmax",
    "temporal_ensembling",
    "timeline",
    "unwritten",
]
