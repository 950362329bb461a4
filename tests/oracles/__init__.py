"""Reference simulations of the methods, in NumPy (float64) only.

The student is linear: logits = x @ kernel + bias, trained with plain SGD on sparse labels.
All gradients are written out by hand; teachers are constants. Each simulator takes
`(x, y, batches, kernel, bias, learning_rate, ...)` and returns one `Epoch` per epoch.
`batches` holds one list of index arrays per epoch. `learning_rate` is a number or a function
of the step (from 0). A batch's loss is the mean over all its samples: a sample
without a teacher adds 0 to the guidance and still counts in the mean.
"""

from tests.oracles.common import (
    Epoch,
    Means,
    Momentum,
    cross_entropy,
    dense_gradients,
    has_row,
    inputs,
    kl,
    log_softmax,
    mse,
    sgd,
    soft_cross_entropy,
    softmax,
    unwritten,
)
from tests.oracles.dups import dups
from tests.oracles.elr import elr, regularizer
from tests.oracles.generations import ensemble, two_generations
from tests.oracles.knowledge_distillation import kept_classes, knowledge_distillation, shared_rest
from tests.oracles.lstsd import lstsd, timeline
from tests.oracles.mean_teacher import mean_teacher
from tests.oracles.prokt import prokt
from tests.oracles.ps_kd import ps_kd
from tests.oracles.rco import anchor_numbers, rco
from tests.oracles.single_teacher_lstsd import single_teacher
from tests.oracles.snapshot_distillation import snapshot_distillation
from tests.oracles.snapshot_ensemble import cyclic_cosine, snapshot_ensemble_predict
from tests.oracles.temporal_ensembling import temporal_ensembling
from tests.oracles.tolerant_teacher import gap, tolerant_teacher

__all__ = [
    "Epoch",
    "Means",
    "Momentum",
    "anchor_numbers",
    "cross_entropy",
    "cyclic_cosine",
    "dense_gradients",
    "dups",
    "elr",
    "ensemble",
    "gap",
    "has_row",
    "inputs",
    "kept_classes",
    "kl",
    "knowledge_distillation",
    "log_softmax",
    "lstsd",
    "mean_teacher",
    "mse",
    "prokt",
    "ps_kd",
    "rco",
    "regularizer",
    "sgd",
    "shared_rest",
    "single_teacher",
    "snapshot_distillation",
    "snapshot_ensemble_predict",
    "soft_cross_entropy",
    "softmax",
    "temporal_ensembling",
    "timeline",
    "tolerant_teacher",
    "two_generations",
    "unwritten",
]
