"""Summaries of scores over several training runs, as text for tables."""

import math
import statistics
from collections.abc import Mapping, Sequence


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of scores, as `"mean +- std"`.

    `m = 1/n sum_i v_i` and `s = sqrt(1/(n - 1) sum_i (v_i - m)^2)`, both with two decimals.

    Args:
        values: n scores, for example one per seed, in any unit.

    Returns:
        `"m +- s"`; the score alone for n = 1; `"-"` for n = 0.

    Example:
        >>> keras_lstsd.statistics.spread([70.0, 72.0, 71.0])     # "71.00 +- 1.00"
    """
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "-"
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f}"


def paired_difference(scores: Mapping[int, float], baseline: Mapping[int, float]) -> str:
    """Mean difference to a baseline over common seeds, as `"+mean +- standard error"`.

    `d_i = score_i - baseline_i` for the n seeds i that both have, `m = 1/n sum_i d_i`, and the
    standard error of m: `sqrt(1/(n - 1) sum_i (d_i - m)^2) / sqrt(n)`. Pairing removes the
    variation that both runs of a seed share, such as the initial weights and the noise of the
    labels.

    Args:
        scores: the score of each seed, in any unit.
        baseline: the baseline's score of each seed, in the same unit. Seeds that only one of the
            two has are left out.

    Returns:
        `"+m +- e"` with the sign of m and two decimals; the difference alone for n = 1; `"-"` for
        n = 0.

    Example:
        >>> keras_lstsd.statistics.paired_difference(
        ...     {0: 80.0, 1: 81.0, 2: 85.0}, {0: 70.0, 1: 72.0, 2: 71.0})     # "+11.00 +- 1.53"
    """
    seeds = sorted(scores.keys() & baseline.keys())
    differences = [scores[seed] - baseline[seed] for seed in seeds]
    if len(differences) < 2:
        return f"{differences[0]:+.2f}" if differences else "-"
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{statistics.mean(differences):+.2f} +- {error:.2f}"
