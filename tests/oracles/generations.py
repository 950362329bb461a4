"""Generations (Furlanello et al. 2018; Yang et al., AAAI 2019): chains and ensembles."""

import numpy as np

from tests.oracles.knowledge_distillation import knowledge_distillation
from tests.oracles.tolerant_teacher import tolerant_teacher


def two_generations(x, y, batches, first, second, learning_rate, eta, top_k, alpha, temperature):
    """Generation 0 trains as a tolerant teacher; its student then teaches generation 1 by KD.

    `first` and `second` are the (kernel, bias) with which the generations start. Returns the
    `Epoch`s of both.
    """
    teacher = tolerant_teacher(x, y, batches, *first, learning_rate, eta, top_k)
    logits = np.asarray(x, "float64") @ teacher[-1].kernel + teacher[-1].bias
    student = knowledge_distillation(
        x, y, batches, *second, learning_rate, logits, alpha, temperature
    )
    return teacher, student


def ensemble(probabilities):
    """The mean over students of their probabilities (slides, "+Ensemble")."""
    return np.mean(probabilities, axis=0)
