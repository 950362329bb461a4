"""Loads several recipes in one process, although they define flags with the same names."""

import importlib
from types import ModuleType

from absl import flags

from recipes import options


def load(name: str) -> ModuleType:
    """The module of a recipe, after the flags of other recipes were removed."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("recipes.") and module != options.__name__:
            for flag in list(defined):
                if flag.name in flags.FLAGS:
                    delattr(flags.FLAGS, flag.name)
    return importlib.import_module(f"recipes.{name}")
