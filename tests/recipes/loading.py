"""Recipes beside each other in one process, where each has flags of the same names."""

import importlib
from types import ModuleType

from absl import flags


def load(name: str) -> ModuleType:
    """A recipe's module; the flags of those loaded before it make room."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("recipes."):
            for flag in list(defined):
                if flag.name in flags.FLAGS:
                    delattr(flags.FLAGS, flag.name)
    return importlib.import_module(f"recipes.{name}")
