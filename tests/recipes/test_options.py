import pytest
from absl import flags

from recipes import options


@pytest.fixture
def parsed(monkeypatch):
    """Flags as after the parsing of a command line."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return lambda name, value: monkeypatch.setattr(flags.FLAGS[name], "value", value)


def test_words_that_are_not_flags_are_rejected(parsed):
    options.check_command(["digits"])
    with pytest.raises(SystemExit, match="Only flags are accepted.*vanilla"):
        options.check_command(["digits", "vanilla"])


@pytest.mark.parametrize("name", ["a/b", "../digits", "", "digits.md"])
def test_a_published_name_is_a_file_name_without_ending(parsed, name):
    parsed("publish", "digits-2")
    options.check_command(["digits"])
    parsed("publish", name)
    with pytest.raises(SystemExit, match="--publish needs a name for files"):
        options.check_command(["digits"])


def test_names_are_separated_by_commas():
    known = ["vanilla", "lstsd", "dups"]
    assert options.names("method", "lstsd,vanilla", known) == ["lstsd", "vanilla"]
    assert options.names("method", "all", known) == known
    for value in ("magic", "lstsd,", "lstsd, vanilla", ""):
        with pytest.raises(SystemExit, match="No such method.*dups"):
            options.names("method", value, known)
