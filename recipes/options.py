"""Flags that all recipes have, and checks of the command line."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

from absl import flags, logging

REPORT = flags.DEFINE_bool("report", False, "Writes an HTML report with plots beside the table.")
PUBLISH = flags.DEFINE_string(
    "publish", None, "Copies the table and its runs to recipes/results/NAME.md and NAME.json."
)


def check_command(argv: Sequence[str]) -> None:
    """Rejects words that are not flags, and shared flags that cannot work; shows warnings only.

    Raises:
        SystemExit: for words that are not flags, for `--report` without matplotlib, and for a
            name in `--publish` that is not a file name without ending.
    """
    # absl shows INFO by default, a line for each model.
    logging.set_verbosity(logging.WARNING)
    if argv[1:]:
        raise SystemExit(
            f"Only flags are accepted. Received: {argv[1:]}. Expected: flags alone; see --help."
        )
    if REPORT.value and find_spec("matplotlib") is None:
        raise SystemExit(
            "--report needs matplotlib, which is not installed. "
            'Write: pip install "keras-lstsd[report]".'
        )
    if PUBLISH.value is not None and not re.fullmatch(r"[\w-]+", PUBLISH.value):
        raise SystemExit(
            f"--publish needs a name for files. Received: --publish={PUBLISH.value}. "
            "Expected: letters, digits, - and _ only, such as --publish=digits."
        )


def names(flag: str, value: str, known: Sequence[str]) -> list[str]:
    """The names in the value of a flag.

    Args:
        flag: the name of the flag.
        value: `"all"`, or names with commas between them.
        known: all possible names.

    Raises:
        SystemExit: for a name that is not known.
    """
    chosen = list(known) if value == "all" else value.split(",")
    if any(name not in known for name in chosen):
        raise SystemExit(
            f"No such {flag}. Received: --{flag}={value}. Expected: all, or a comma-separated "
            f"list of {', '.join(known)}."
        )
    return chosen


def seeds(value: str) -> list[int]:
    """The numbers in the value of `--seed`.

    Raises:
        SystemExit: for a value that is not whole numbers with commas between them.
    """
    if not all(seed.isdecimal() for seed in value.split(",")):
        raise SystemExit(
            f"--seed has a value that is not a whole number. Received: --seed={value}. "
            "Expected: whole numbers with commas between, such as --seed=0,1,2."
        )
    return [int(seed) for seed in value.split(",")]
