"""Times of things that are measured in turn, and intervals of their ratios."""

import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

# What a measurement yields: the columns of its table, then the cells and the values of each row.
Rows = Iterable[list[str] | tuple[list[str], dict[str, list[float]]]]


def in_turn(candidates: Mapping[Any, Callable[[], float]], rounds: int) -> dict[Any, list[float]]:
    """Measures each candidate once in each round.

    A first round warms up and is not counted. The order is random in each round, so that what one
    candidate leaves in the caches affects the others equally.

    Args:
        candidates: measurements, by name.
        rounds: the counted rounds.

    Returns:
        The values of the counted rounds, by name.
    """
    figures, order = {name: [] for name in candidates}, random.Random(0)
    for number in range(rounds + 1):
        for name in order.sample(list(candidates), len(candidates)):
            figure = candidates[name]()
            if number:
                figures[name].append(figure)
    return figures


def fit_seconds(model: keras.Model, *data: np.ndarray, **options: Any) -> float:
    """Seconds of a training, without the preparation in `fit`."""
    times = []

    def note(logs):
        times.append(time.perf_counter())

    clock = keras.callbacks.LambdaCallback(on_train_begin=note, on_train_end=note)
    model.fit(*data, verbose=0, callbacks=[clock], **options)
    return times[1] - times[0]


def rate(batches: Callable[[], Iterable]) -> float:
    """Samples per second of one pass over batches."""
    start, count = time.perf_counter(), 0
    for element in batches():
        count += len(element[-1])
    return count / (time.perf_counter() - start)


class Turns(keras.callbacks.Callback):
    """An endless `fit` in its own thread, which runs for some steps when it is called.

    Ten trainings can thus be compared within a few seconds. Between whole epochs in turn, the
    speed of the machine changes by more than what is measured. Not timed are epoch boundaries and
    the first execution after a boundary or a pause: it fills caches that other trainings have
    used. A turn returns the median of its steps: one interrupted step would dominate their mean.

    Args:
        steps: the timed steps of a turn, at least.
        model: the compiled model.
        data: the data of `fit`.
        batch_size: that of `fit`.
    """

    def __init__(self, steps: int, model: keras.Model, *data: Any, batch_size: int):
        super().__init__()
        self.steps, self.over, self.failure = steps, False, None
        self.may_run, self.has_run = threading.Semaphore(0), threading.Semaphore(0)

        def train():
            self.may_run.acquire()
            try:
                model.fit(*data, batch_size, epochs=10**6, verbose=0, callbacks=[self])
            except Exception as error:
                self.failure = error
            self.has_run.release()

        threading.Thread(target=train, daemon=True).start()

    def __call__(self) -> float:
        """Trains for a turn; returns the median of the seconds of its steps."""
        self.may_run.release()
        self.has_run.acquire()
        if self.failure:
            raise self.failure
        return self.seconds

    def end(self) -> None:
        """Ends the training."""
        self.over = True
        self.may_run.release()
        self.has_run.acquire()

    def on_epoch_begin(self, epoch, logs=None):
        self.last, self.times = None, []

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # JAX returns before it has finished.
        now = time.perf_counter()
        self.last, before = (batch, now), self.last
        if before is None:
            return
        steps = batch - before[0]
        self.times.append((now - before[1]) / steps)
        if len(self.times) * steps < self.steps:
            return
        self.seconds = statistics.median(self.times)
        self.has_run.release()
        self.may_run.acquire()
        self.model.stop_training = self.over
        self.last, self.times = None, []


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Two of the values that contain the median with at least this confidence, where possible.

    The rank is that of the sign test: of n values, the k-th lowest lies above the median as often
    as n tosses of a fair coin have fewer than k heads.
    """
    values, n = sorted(values), len(values)
    rank = 1
    while 2 * rank < n:
        outside = 2 * sum(math.comb(n, heads) for heads in range(rank + 1)) / 2**n
        if outside > 1 - confidence:
            break
        rank += 1
    return values[rank - 1], values[n - rank]


def with_interval(values: Sequence[float]) -> str:
    """The median and its interval, as `"median (low-high)"`."""
    low, high = median_interval(values)
    return f"{statistics.median(values):.3f} ({low:.3f}-{high:.3f})"


def ratios(values: Sequence[float], baseline: Sequence[float]) -> str:
    """The median ratio to the baseline of the same round, with its interval."""
    return with_interval([value / base for value, base in zip(values, baseline, strict=True)])


def ratios_row(figures: Iterable[list[float]], unit: float = 1) -> list[str]:
    """The median of the first, in a unit, and the ratios of the others to it."""
    first, *others = figures
    return [
        f"{statistics.median(first) / unit:.2f}",
        *(ratios(values, first) for values in others),
    ]


def median_and_range(values: Sequence[float], digits: int = 0) -> list[str]:
    """The median, and the lowest and highest value."""
    median, low, high = (
        f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return [median, f"{low} to {high}"]
