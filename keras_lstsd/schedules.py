"""Learning-rate schedules of the papers, counted in optimizer steps."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule


@keras.saving.register_keras_serializable("keras_lstsd")
class StepDecay(LearningRateSchedule):
    """Divides the learning rate by a factor at given fractions of the training.

    `lr(t) = initial / factor^k`, k = how many of `fractions * total_steps` lie at or before t.

    Args:
        initial_learning_rate: the rate of the first step.
        total_steps: steps of the whole training (epochs times batches per epoch).
        fractions: where the rate drops, each in (0, 1).
        factor: what it is divided by.

    Raises:
        ValueError: when `total_steps` is not positive or a fraction lies outside (0, 1).

    Example:
        >>> rate = keras_lstsd.schedules.StepDecay(0.1, total_steps=164 * 391)
        >>> keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)

    Source: the CIFAR-100 runs of Jiang et al. 2020: 0.1 divided by 10 at 25, 50 and 75 %.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        total_steps: int,
        fractions: Sequence[float] = (0.25, 0.5, 0.75),
        factor: float = 10.0,
    ):
        _check_positive("total_steps", total_steps)
        if not all(0 < fraction < 1 for fraction in fractions):
            raise ValueError(
                "`fractions` says at which parts of the training the rate drops. "
                f"Received: {fractions}. Expected: numbers between 0 and 1, such as (0.5, 0.75)."
            )
        self.initial_learning_rate = initial_learning_rate
        self.total_steps = total_steps
        self.fractions = tuple(fractions)
        self.factor = factor

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        drops = sum(
            ops.cast(step >= round(fraction * self.total_steps), "float32")
            for fraction in self.fractions
        )
        return self.initial_learning_rate * ops.power(1.0 / self.factor, drops)

    def get_config(self) -> dict:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "total_steps": self.total_steps,
            "fractions": self.fractions,
            "factor": self.factor,
        }


@keras.saving.register_keras_serializable("keras_lstsd")
class CyclicCosine(LearningRateSchedule):
    """Cosine annealing that starts again at each cycle and ends each one at its floor.

    In a cycle of n steps, at its step t = 0 .. n-1:
    `lr(t) = floor + (initial - floor) / 2 * (1 + cos(pi t / (n - 1)))`.
    The last cycle is shortened to what `total_steps` leaves, and still falls from the initial
    rate to the floor; after the last step the rate stays at the floor.

    Args:
        initial_learning_rate: the rate at the start of each cycle.
        cycle_steps: steps of a full cycle (epochs of a mini-generation times batches per epoch).
        total_steps: steps of the whole training.
        floor: the rate at the last step of each cycle.

    Raises:
        ValueError: when `cycle_steps` or `total_steps` is not positive.

    Example:
        >>> rate = keras_lstsd.schedules.CyclicCosine(0.1, 40 * 391, total_steps=164 * 391)

    Source: Huang et al. 2017 (Snapshot Ensembles), Eq. 2, after Loshchilov and Hutter 2016.

    Differences from the paper: the floor is reached at a cycle's last step, where the paper's
    rate would reach it one step later; `keras.optimizers.schedules.CosineDecayRestarts` does as
    the paper and leaves a shortened last cycle at a high rate.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        cycle_steps: int,
        total_steps: int,
        floor: float = 0.0,
    ):
        _check_positive("cycle_steps", cycle_steps)
        _check_positive("total_steps", total_steps)
        self.initial_learning_rate = initial_learning_rate
        self.cycle_steps = cycle_steps
        self.total_steps = total_steps
        self.floor = floor

    def __call__(self, step: Any) -> Any:
        step = ops.minimum(ops.cast(step, "float32"), self.total_steps - 1.0)
        start = ops.floor(step / self.cycle_steps) * self.cycle_steps
        last = ops.minimum(float(self.cycle_steps), self.total_steps - start) - 1.0
        # A cycle of a single step is at its end.
        progress = ops.where(last > 0, (step - start) / ops.maximum(last, 1.0), 1.0)
        height = (self.initial_learning_rate - self.floor) / 2
        return self.floor + height * (1 + ops.cos(math.pi * progress))

    def get_config(self) -> dict:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "cycle_steps": self.cycle_steps,
            "total_steps": self.total_steps,
            "floor": self.floor,
        }


def _check_positive(name: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(
            f"`{name}` counts optimizer steps. Received: {steps}. Expected: at least 1, for "
            "example epochs * ceil(num_samples / batch_size)."
        )
