"""Learning-rate schedules of the papers, and the ramp-up of the weight of a teacher."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule


@keras.saving.register_keras_serializable("keras_lstsd")
class StepDecay(LearningRateSchedule):
    """Divides the learning rate by a constant factor at given fractions of the training.

    `lr(t) = initial / factor^k(t)` at step t = 0, 1, ...; `k(t)` is the number of fractions f
    with `round(f * total_steps) <= t`.

    Args:
        initial_learning_rate: the learning rate of the first step.
        total_steps: number of optimizer steps of the whole training: epochs times batches per
            epoch.
        fractions: fractions of the training at which the rate drops, each in (0, 1).
        factor: the divisor of the rate at each drop.

    Returns:
        When called with a step: the learning rate, a float32 scalar.

    Raises:
        ValueError: when `total_steps` is not positive or a fraction lies outside (0, 1).

    Example:
        >>> rate = keras_lstsd.schedules.StepDecay(0.1, total_steps=164 * 391)
        >>> keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)

    Source: Jiang et al. 2020, the CIFAR-100 experiments: 0.1, divided by 10 after 25, 50 and 75 %
    of the training.
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
                "`fractions` must lie inside the training. "
                f"Received: fractions={fractions}. Expected: numbers between 0 and "
                "1, such as `fractions=(0.5, 0.75)`."
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
    """Cosine annealing that restarts in each cycle and reaches the floor at each cycle's end.

    In a cycle of n steps, at its step t = 0 .. n-1:
    `lr(t) = floor + (initial - floor) / 2 * (1 + cos(pi t / (n - 1)))`.
    The last cycle has the steps that remain of `total_steps`. It also falls from the initial
    rate to the floor. After the last step, the rate stays at the floor.

    Args:
        initial_learning_rate: the learning rate at the start of each cycle.
        cycle_steps: number of optimizer steps of a full cycle: epochs of a mini-generation times
            batches per epoch.
        total_steps: number of optimizer steps of the whole training.
        floor: the learning rate at the last step of each cycle.

    Returns:
        When called with a step: the learning rate, a float32 scalar.

    Raises:
        ValueError: when `cycle_steps` or `total_steps` is not positive.

    Example:
        >>> rate = keras_lstsd.schedules.CyclicCosine(0.1, 40 * 391, total_steps=164 * 391)

    Source: Huang et al. 2017 (Snapshot Ensembles), Eq. 2, after Loshchilov and Hutter 2016.

    Differences from the paper: the rate reaches the floor at the last step of a cycle; the
    paper's rate reaches it one step later. `keras.optimizers.schedules.CosineDecayRestarts`
    follows the paper, and a shortened last cycle ends there at a high rate.
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
        # A cycle with a single step consists of its end.
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


def ramp_up(epoch: Any, ramp: int) -> Any:
    """The factor of a teacher's weight in an epoch: `exp(-5 (1 - min(t / R, 1))^2)`.

    The methods that take `ramp=R` use it. A network that is still learning is then hardly held
    near its earlier predictions: the factor is 0.007 in epoch 0, 0.06 at R/4, 0.29 at R/2 and 1
    from R on. It depends on the epochs of the model so far, not on those of a call of `fit`.

    Args:
        epoch: t = 0, 1, ..., a scalar; the model counts it over all calls of `fit`.
        ramp: R, in epochs; 0 for a constant weight.

    Returns:
        the factor, a float32 scalar; 1.0 where `ramp` is 0.

    Example:
        >>> float(keras_lstsd.schedules.ramp_up(40, 80))
        0.286...

    Source: Laine and Aila 2016, "Implementation": a Gaussian ramp-up over the first 80 epochs.
    """
    if not ramp:
        return 1.0
    share = ops.minimum(ops.cast(epoch, "float32") / ramp, 1.0)
    return ops.exp(-5.0 * (1.0 - share) ** 2)


def _check_positive(name: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(
            f"`{name}` must be a positive number of optimizer steps. Received: {name}={steps}. "
            f"Expected: at least 1, such as `{name}=epochs * math.ceil(num_samples / batch_size)`."
        )
