"""Checks of arguments that several methods share."""

import operator
from collections.abc import Sequence
from typing import Any


def count(name: str, value: Any, at_least: int = 1) -> int:
    """The value as a Python integer.

    Raises:
        ValueError: when it is not a whole number of at least `at_least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise ValueError(
            f"`{name}` is a count. Received: {name}={value!r}. Expected: a whole number of at "
            f"least {at_least}."
        )
    return number


def check_distillation(temperature: float, kl: str = "reverse", **weights: float) -> None:
    """Refuses settings of a distillation loss that make no sense.

    Raises:
        ValueError: for a temperature that is not positive, an unknown direction, a negative weight.
    """
    if not temperature > 0:
        raise ValueError(
            "`temperature` divides logits. "
            f"Received: temperature={temperature}. Expected: above 0, for example 2.0."
        )
    if kl not in ("reverse", "forward"):
        raise ValueError(
            f"`kl` is the direction of the divergence. Received: kl={kl!r}. Expected: "
            "'reverse' (KL[student || teacher]) or 'forward' (KL[teacher || student])."
        )
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(
                f"`{name}` weighs a part of the loss. Received: {name}={weight}. "
                "Expected: at least 0 (0 leaves that part out)."
            )


def check_momentum(momentum: float) -> None:
    """Refuses a share that a moving average cannot keep.

    Raises:
        ValueError: for a momentum outside [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(
            "`momentum` is the share that the moving average keeps. "
            f"Received: momentum={momentum}. Expected: at least 0 and below 1."
        )


def check_class_names(class_names: Sequence[str], num_classes: int) -> None:
    """Refuses names that are not one per class, each of its own.

    Raises:
        ValueError: for a string in place of a list, for another number of names, for two alike.
    """
    are_names = not isinstance(class_names, str) and all(
        isinstance(name, str) for name in class_names
    )
    if not are_names or len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            "`class_names` tells the classes apart. "
            f"Received: class_names={class_names!r}. Expected: a list of {num_classes} different "
            "strings, in the order of the labels."
        )
