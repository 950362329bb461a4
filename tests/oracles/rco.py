"""Route-Constrained Optimization (Jin et al. 2019)."""

import numpy as np

from tests.oracles.knowledge_distillation import knowledge_distillation


def anchor_numbers(anchors, epochs):
    """Per epoch t = 1..n the anchor ceil(t A / n) - 1: equal shares, the trained one at the end."""
    return [-(-t * anchors // epochs) - 1 for t in range(1, epochs + 1)]


def rco(x, y, batches, kernel, bias, learning_rate, anchors, alpha, temperature):
    """Knowledge distillation from the anchor of each epoch (ProKT, "Related work", Eq. 2).

    `anchors` [A, N, classes]: the logits of the teacher at A times of its own training.
    """
    anchors = np.asarray(anchors, "float64")
    teachers = anchors[anchor_numbers(len(anchors), len(batches))]
    return knowledge_distillation(
        x, y, batches, kernel, bias, learning_rate, teachers, alpha, temperature
    )
