"""Labels whose margins over the first epochs are negative in sum do not count afterwards."""

import numpy as np

from tests.oracles.common import Epoch, Means, cross_entropy, inputs, sgd


def dropping(x, y, batches, kernel, bias, learning_rate, after):
    """L = 1/B sum_i w_i CE_i.

    m_i sums z_y - max_(c != y) z_c over the draws in epochs 0 to after - 1. Then w_i = 0 where
    m_i < 0; otherwise, and before, w_i = 1. The divisor stays B.
    """
    x, y, kernel, bias = inputs(x, y, kernel, bias)
    margins, history, step = np.zeros(len(x)), [], 0
    for epoch, steps in enumerate(batches):
        means = Means()
        for index in steps:
            logits = x[index] @ kernel + bias
            dropped = (margins[index] < 0) & (epoch >= after)
            if epoch < after:
                of_batch = []
                for row, label in zip(logits, y[index], strict=True):
                    of_batch.append(row[label] - np.delete(row, label).max())
                margins[index] = margins[index] + of_batch
            ce, gradient = cross_entropy(logits, y[index])
            means.add(loss=np.where(dropped, 0, ce), dropped_labels=dropped)
            gradient = np.where(dropped[:, None], 0, gradient)
            kernel, bias = sgd(kernel, bias, x[index], gradient, learning_rate, step)
            step += 1
        history.append(Epoch(kernel, bias, means.result(), {"margins": margins.copy()}))
    return history
