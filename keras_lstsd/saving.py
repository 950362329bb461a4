"""Atomic weight files, backups that resume exactly, and the run fingerprint."""

import inspect
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from absl import logging

from keras_lstsd import compat, processes
from keras_lstsd.callbacks import Restores

ATTRIBUTE = "keras_lstsd"
# Of the run fingerprint; fingerprints of two versions are compared in what both have.
VERSION = 1


@contextmanager
def replacing(path: str | Path, reserved: int = 0) -> Iterator[Path]:
    """A temporary path to write to; the finished file then replaces `path` in one move.

    A kill, a crash or a full disk before that leaves the old file at `path`. Of several processes
    that train together, the first one writes; what others write is dropped.

    Args:
        path: the file to write or to replace.
        reserved: bytes to reserve on the disk, for writers that do not report a full one.

    Raises:
        OSError: when the file cannot be written; it names the file.

    Example:
        >>> with keras_lstsd.saving.replacing("table.md") as part:
        ...     part.write_text("| method |")
    """
    path = Path(path)
    if not processes.writes():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    part = path.with_name(f"part.{path.name}")
    try:
        if reserved and hasattr(os, "posix_fallocate"):
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, reserved)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # h5py raises both kinds
        raise OSError(
            f"{path} could not be written: {error}. Received: a disk that is full, or a folder "
            "that is missing or not writable. Expected: space for the new file beside the old one; "
            f"{'the old file is intact' if path.exists() else 'there was no old file'}."
        ) from error
    finally:
        if part.is_file():
            part.unlink()


def sign(path: str | Path, facts: dict[str, Any]) -> None:
    """Stores facts, and a checksum of all weights, in a file of weights."""
    with h5py.File(path, "r+") as file:
        facts = {"checksum": _checksum(file), **facts}
        file.attrs[ATTRIBUTE] = json.dumps(facts, default=float)


def facts_of(path: str | Path) -> dict[str, Any]:
    """The facts stored in a file of weights; empty for a file that was not signed.

    Raises:
        OSError: when the file is truncated, or its weights do not have the stored checksum.
    """
    try:
        with h5py.File(path, "r") as file:
            if ATTRIBUTE not in file.attrs:
                return {}
            facts = json.loads(file.attrs[ATTRIBUTE])
            if facts.pop("checksum") == _checksum(file):
                return facts
            problem = "its weights do not have the checksum that was stored with them"
    except FileNotFoundError:
        raise
    except Exception as error:  # h5py reports damage by errors of many kinds
        problem = str(error)
    raise OSError(
        f"{path} is damaged: {problem}. Expected: a file of weights as it was written; delete it "
        "and use an earlier one."
    )


def prepare(
    backup: keras.callbacks.BackupAndRestore,
    facts: dict[str, Any],
    interrupted: int | None = None,
) -> int | None:
    """Makes a backup's folder consistent after a kill, and checks that it is of this run.

    Keras writes weights and epoch as two files, one after the other. The weights carry their own
    epoch, so the files of epochs are written again from them.

    Args:
        backup: the callback, before it restores.
        facts: the run fingerprint; that of the backup must be equal.
        interrupted: the `start_epoch` of a `fit` of this model object that did not end.

    Returns:
        the `start_epoch` of the run that will be resumed, or None.

    Raises:
        ValueError: for a backup in the middle of an epoch, or one of another run.
        OSError: when the folder cannot be written, or all its weights are damaged.
    """
    if backup.save_freq != "epoch":
        raise ValueError(
            "A backup in the middle of an epoch cannot be resumed exactly: Keras would train on "
            "some samples twice. "
            f"Received: BackupAndRestore(save_freq={backup.save_freq!r}). Expected: "
            f"`keras.callbacks.BackupAndRestore({str(backup.backup_dir)!r}, "
            "double_checkpoint=True)`, which saves after each epoch."
        )
    if "://" in str(backup.backup_dir):
        logging.warning(
            "%s is not a local folder: only Keras restores from it, and a kill while it writes "
            "may damage the backup.",
            backup.backup_dir,
        )
        return None
    folder = Path(backup.backup_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "part.probe").touch()
        (folder / "part.probe").unlink()
    except OSError as error:
        raise OSError(
            f"Backups cannot be written to {folder}: {error}. Expected: a writable folder as "
            "`backup_dir`."
        ) from error
    pairs = compat.backup_paths(backup)
    found, damage = [], []
    for weights, metadata in pairs:
        try:
            found.append((facts_of(weights), metadata))
        except FileNotFoundError:
            # A finished run, killed while Keras removed its folder.
            metadata.unlink(missing_ok=True)
        except OSError as error:
            damage.append(str(error))
    if damage and not found:
        raise OSError(f"All backups in {folder} are damaged. {' '.join(damage)}")
    if not found:
        return None
    saved, _ = found[0]
    facts = json.loads(json.dumps(facts, default=float))
    if saved.get("start_epoch") == interrupted:
        facts["start_epoch"] = interrupted
    differing = sorted(name for name in saved.keys() & facts.keys() if saved[name] != facts[name])
    if differing or not saved:
        received, expected = (
            ", ".join(f"{name}={values[name]}" for name in differing) or "no fingerprint"
            for values in (facts, saved)
        )
        raise ValueError(
            f"The backup in {folder} is of another run. Received: {received}. Expected, as in the "
            f"backup: {expected}. Resume with the same data and model, or give this run a "
            "`backup_dir` of its own."
        )
    if damage:
        logging.warning("Resuming from the backup before. %s", " ".join(damage))
    for stored, metadata in found:
        with replacing(metadata) as part:
            part.write_text(json.dumps({"epoch": stored["epoch"], "batch": 0}))
    return saved["start_epoch"]


def _checksum(file: h5py.File) -> int:
    checksum = 0

    def add(name, item):
        nonlocal checksum
        if isinstance(item, h5py.Dataset):
            checksum = zlib.crc32(name.encode(), checksum)
            checksum = zlib.crc32(item[()].tobytes(), checksum)

    file.visititems(add)
    return checksum


def _is_local(path: Any, suffix: str, overwrite: bool = True) -> bool:
    """Whether `path` can be replaced in one move: no bucket, and no question before overwriting."""
    is_local = str(path).endswith(suffix) and "://" not in str(path)
    return is_local and (overwrite or not Path(path).exists())


class Saving:
    """Saving, loading and configuration of a `Distillation`; mixed into it."""

    def prepare_backups(self, callbacks: list) -> None:
        """Prepares the backups among the callbacks of a `fit`; see `prepare`.

        In a process that writes no files, others take their places.
        """
        facts = self.fingerprint()
        processes.check_equal(facts)
        resumed = None
        for place, callback in enumerate(callbacks):
            if not isinstance(callback, keras.callbacks.BackupAndRestore):
                continue
            start = processes.of_first(partial(prepare, callback, facts, self._interrupted))
            if not processes.writes():
                callbacks[place] = Restores(callback, start is not None)
                callbacks[place].set_model(self)
            resumed = start if resumed is None else resumed
        # Until `fit` ends, another call with the same backup resumes this run.
        self._interrupted = facts["start_epoch"] if resumed is None else resumed

    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        """Saves as `keras.Model.save_weights`, atomically and with a checksum.

        The old file at `filepath` stays until the new one is complete.
        """
        self.make_memory()
        with processes.alone(self._saved_variables()) as writes:
            if not writes:
                return
            if max_shard_size is not None or not _is_local(filepath, ".weights.h5", overwrite):
                return super().save_weights(filepath, overwrite, max_shard_size)
            # HDF5 aborts the process when a disk is full, so its space is reserved before.
            size = sum(
                4096 + np.dtype(variable.dtype).itemsize * math.prod(variable.shape)
                for variable in self._saved_variables()
            )
            with replacing(filepath, size) as part:
                super().save_weights(part)
                sign(part, self.fingerprint() | {"epoch": self._epoch_of_fit + 1})

    def _saved_variables(self) -> list:
        """Variables of the model and of its optimizer, without images on the device."""
        images = {id(weight) for weight in self._device_stage.weights}
        variables = self.variables + getattr(getattr(self, "optimizer", None), "variables", [])
        return [variable for variable in variables if id(variable) not in images]

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """Loads as `keras.Model.load_weights`; rejects damaged files and other temperatures.

        Raises:
            OSError: for a file that is damaged.
            ValueError: for rows of teachers that were softened with another temperature.
        """
        if _is_local(filepath, ".weights.h5"):
            own = self.settings()
            saved = facts_of(filepath).get("settings", own)
            if saved.get("temperature") != own.get("temperature") and self.has_softened_rows:
                raise ValueError(
                    "Rows of teachers are softened when they are written, with one temperature. "
                    f"Received: rows of temperature {saved.get('temperature')} for a model of "
                    f"{own.get('temperature')}. Expected: the same temperature; write "
                    f"`{type(self).__name__}(student, temperature={saved.get('temperature')})`."
                )
            if self.num_samples is None:
                self.num_samples = saved.get("num_samples")
        self.make_memory()
        super().load_weights(filepath, skip_mismatch, **kwargs)

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """Saves as `keras.Model.save`; the old file stays until the new one is complete.

        Raises:
            ValueError: for Keras's legacy HDF5 format (.h5).
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "The legacy HDF5 format cannot store a model with teachers. "
                f"Received: {str(filepath)!r}. Expected: a name that ends in .keras; for the "
                f"classifier only, `model.student.save({str(filepath)!r})`."
            )
        self.make_memory()
        with processes.alone(self._saved_variables()) as writes:
            if not writes:
                return
            if not _is_local(filepath, ".keras", overwrite) or zipped is False:
                return super().save(filepath, overwrite, zipped, **kwargs)
            given = [layer for layer in compat.layers_of(self) if hasattr(layer, "is_stored")]
            try:
                for layer in given:
                    layer.is_stored = True
                with replacing(filepath) as part:
                    super().save(part, zipped=zipped, **kwargs)
            finally:
                for layer in given:
                    layer.is_stored = False

    def get_weights(self) -> list[np.ndarray]:
        """The values of all weights, the rows of other processes included."""
        return [processes.numpy(weight) for weight in self.weights]

    def fingerprint(self) -> dict[str, Any]:
        """The run fingerprint: numbers, names and checksums that a resumed run must share."""
        return {
            "version": VERSION,
            "method": type(self).__name__,
            "settings": self.settings(),
            "num_classes": getattr(self, "num_classes", None),
            "positions": [list(self.positions.axes), self.is_multi_label] if self.built else None,
            "precision": self.student.dtype_policy.name,
            "start_epoch": self.epoch - self._epoch_of_fit,
            "teachers": [
                layer.fingerprint()
                for layer in compat.layers_of(self)
                if hasattr(layer, "fingerprint") and layer is not self
            ],
            "data": self._data,
        }

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments, those that `**kwargs` passes on included."""
        names = []
        for cls in type(self).__mro__:
            if "__init__" not in vars(cls):
                continue
            _, *parameters = inspect.signature(cls.__init__).parameters.values()
            kinds = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
            variadic = kinds & {it.kind for it in parameters}
            names += [it.name for it in parameters if it.kind not in variadic]
            if not variadic:
                break
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise AttributeError(
                "A method needs one attribute per argument, from which backups and `.keras` files "
                f"are made. Received: {type(self).__name__} without the attributes {missing}. "
                f"Expected: in its `__init__`, `self.{missing[0]} = {missing[0]}`."
            )
        return {name: getattr(self, name) for name in names}

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments that are numbers, names or None."""
        plain = bool | int | float | str | None
        values = self._arguments().items()
        return {name: it for name, it in values if isinstance(it, plain) and name != "name"}

    def get_config(self) -> dict:
        """The constructor's arguments, serialized; models and losses among them too."""
        values = self._arguments().items()
        config = {name: keras.saving.serialize_keras_object(value) for name, value in values}
        # The compiled loss may have shown it, and memory is made before a loaded model is compiled.
        return config | {"multi_label": self.is_multi_label}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """A model of `get_config`'s arguments, with memory where the size of it is known."""
        config = dict(config)
        multi_label = config.pop("multi_label", False)
        model = cls(
            **{
                name: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
                for name, value in config.items()
            }
        )
        model.is_multi_label = multi_label
        model.make_memory()
        return model

    def save_own_variables(self, store) -> None:
        # Keras saves no seed states (dropout's, for example). A resumed run needs them.
        super().save_own_variables(store)
        for number, state in enumerate(self._seed_states()):
            store[f"seed_{number}"] = state

    def load_own_variables(self, store) -> None:
        keys = list(store.keys())
        super().load_own_variables({key: store[key] for key in keys if key.isdigit()})
        saved = sorted(key for key in keys if not key.isdigit())
        states = self._seed_states()
        if len(saved) != len(states):
            raise ValueError(
                "The saved model draws random numbers in other layers than this one. "
                f"Received: {len(saved)} seed states. Expected: {len(states)}, those of this "
                "student."
            )
        for number, state in enumerate(states):
            state.assign(store[f"seed_{number}"])

    def _seed_states(self) -> list:
        generators = [it for layer in compat.layers_of(self) for it in compat.seeds_of(layer)]
        return [generator.state for generator in generators]
