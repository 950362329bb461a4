"""All methods by name, with the settings that recipes and tests use."""

from dataclasses import dataclass, field
from typing import Any

from keras_lstsd.methods.lstsd import LSTSD
from keras_lstsd.self_distillation import SelfDistillation


@dataclass(frozen=True)
class Method:
    """A class and its settings."""

    cls: type[SelfDistillation]
    few_classes: dict[str, Any] = field(default_factory=dict)
    """Arguments where a task has few classes; the defaults are the paper's CIFAR-100 settings."""
    tiny: dict[str, Any] = field(default_factory=dict)
    """Arguments under which a test of a few epochs meets every edge."""


METHODS = {
    "vanilla": Method(SelfDistillation, tiny={"mini_generation_epochs": 2}),
    "lstsd": Method(LSTSD, few_classes={"temperature": 1.0}, tiny={"mini_generation_epochs": 2}),
}
