"""Files of weights that no stop can spoil, and the folder of `BackupAndRestore` made whole."""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
from absl import logging

ATTRIBUTE = "keras_lstsd"


@contextmanager
def replacing(path: str | Path, room: int = 0) -> Iterator[Path]:
    """A place to write a file at; only when it is whole does it take the place of `path`.

    A stop, a crash or a full disk on the way leaves what was at `path`.

    Args:
        path: the file to write or to replace.
        room: bytes that are needed, where the writer itself does not tell that a disk is full.

    Raises:
        OSError: when the file cannot be written; it names the file.

    Example:
        >>> with keras_lstsd.checkpoints.replacing("table.md") as part:
        ...     part.write_text("| method |")
    """
    path = Path(path)
    part = path.with_name(f"part.{path.name}")
    try:
        if room and hasattr(os, "posix_fallocate"):
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, room)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # h5py's errors are of either kind
        raise OSError(
            f"{path} could not be written: {error}. Received: a disk that is full, or a folder "
            "that is missing or not for writing. Expected: room for the file beside the one that "
            f"it replaces; {'the one from before is whole' if path.exists() else 'there is none'}."
        ) from error
    finally:
        if part.is_file():
            part.unlink()


def sign(path: str | Path, facts: dict[str, Any]) -> None:
    """Writes facts, and a checksum of all weights, into a file of weights."""
    with h5py.File(path, "r+") as file:
        facts = {"checksum": _checksum(file), **facts}
        file.attrs[ATTRIBUTE] = json.dumps(facts, default=float)


def facts_of(path: str | Path) -> dict[str, Any]:
    """The facts that a file of weights was signed with; none for a file that was never signed.

    Raises:
        OSError: when the file is truncated, or its weights are not those that were signed.
    """
    try:
        with h5py.File(path, "r") as file:
            if ATTRIBUTE not in file.attrs:
                return {}
            facts = json.loads(file.attrs[ATTRIBUTE])
            if facts.pop("checksum") == _checksum(file):
                return facts
            problem = "its weights do not have the checksum that they were saved with"
    except FileNotFoundError:
        raise
    except Exception as error:  # h5py tells damage by errors of many kinds
        problem = str(error)
    raise OSError(
        f"{path} is damaged: {problem}. Expected: a file of weights as it was written; delete it "
        "and take an earlier one."
    )


def prepare(backup: keras.callbacks.BackupAndRestore, facts: dict[str, Any]) -> None:
    """Makes a backup's folder ready: whole after a kill at any moment, and of this training.

    Keras writes weights and epoch as two files, one after the other. The weights say of which
    epoch they are, so the newest whole ones decide, and the other file follows them.

    Args:
        backup: the callback, before it restores.
        facts: what the training is of; those of the weights in the folder must be equal.

    Raises:
        ValueError: for a backup in the middle of an epoch, or one of another training.
        OSError: when the folder cannot be written, or no weights in it are whole.
    """
    if backup.save_freq != "epoch":
        raise ValueError(
            "A backup in the middle of an epoch cannot be resumed exactly: Keras begins that "
            "epoch again on top of it, and samples would be trained on twice. "
            f"Received: BackupAndRestore(save_freq={backup.save_freq!r}). Expected: "
            f"`keras.callbacks.BackupAndRestore({str(backup.backup_dir)!r}, "
            "double_checkpoint=True)`, which saves after each epoch."
        )
    if "://" in str(backup.backup_dir):
        logging.warning(
            "%s is not a folder of this machine: Keras alone resumes from it, and a stop while it "
            "writes may spoil the backup.",
            backup.backup_dir,
        )
        return
    folder = Path(backup.backup_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "part.probe").touch()
        (folder / "part.probe").unlink()
    except OSError as error:
        raise OSError(
            f"Backups cannot be written to {folder}: {error}. Expected: a folder that can be "
            "made and written, as `backup_dir`."
        ) from error
    newest, previous = Path(backup._weights_path), Path(backup._prev_weights_path)
    metadata = Path(backup._training_metadata_path)
    weights, damage = [], []
    for path in (newest, previous):
        try:
            weights.append((path, facts_of(path)))
        except FileNotFoundError:
            continue
        except OSError as error:
            damage.append(str(error))
    if not weights:
        if damage:
            raise OSError(f"No backup in {folder} is whole. {' '.join(damage)}")
        # A run that was finished, and killed while it removed its folder.
        metadata.unlink(missing_ok=True)
        return
    path, found = weights[0]
    epoch = found.pop("epoch", None)
    facts = json.loads(json.dumps(facts, default=float))
    if found != facts:
        raise ValueError(
            f"The backup in {folder} is of another training. Received: {_told(facts)}. Expected, "
            f"as in the backup: {_told(found)}. Resume with the data and the model it was made "
            "with, or give this run a `backup_dir` of its own."
        )
    if path != newest:
        logging.warning("Resumes from %s. %s", path, " ".join(damage))
        with replacing(newest) as part:
            part.write_bytes(path.read_bytes())
    with replacing(metadata) as part:
        part.write_text(json.dumps({"epoch": epoch, "batch": 0}))


def _checksum(file: h5py.File) -> int:
    checksum = 0

    def add(name, item):
        nonlocal checksum
        if isinstance(item, h5py.Dataset):
            checksum = zlib.crc32(name.encode(), checksum)
            checksum = zlib.crc32(item[()].tobytes(), checksum)

    file.visititems(add)
    return checksum


def _told(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in facts.items()) or "nothing said of it"
