"""Several JAX processes that train one model: how to start them, and what they cost.

On two machines, of which the first has the address 10.0.0.1, with 0 and 1 as `ID`:

    export KERAS_BACKEND=jax
    python -m recipes.processes --processes=2 --process_id=ID --address=10.0.0.1:1234

Each trains LSTSD on its part of the same random batches and prints the time of a step. `train` is
the example: a program of your own needs the same lines before it makes the student. With
`--shard_tables` each process stores its own rows of tables only. Machines with CPUs alone also need
`export JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo`.

Without `--process_id` it measures costs on this machine, with two devices or processes on the same
cores:

    KERAS_BACKEND=jax python -m recipes.processes --student=mlp,resnet20

Times are those of a step of LSTSD in one process with one device; ratios are to the same round. A
second such process is the control. Two processes of one machine share its cores and exchange
gradients, so a ratio of 1 is the best.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import keras
from absl import app, flags

import keras_lstsd
from keras_lstsd import saving
from recipes import machine, options, runs, tables
from recipes.timing import in_turn, ratios, ratios_row
from recipes.workloads import STUDENTS, trainable

STUDENT = flags.DEFINE_string("student", "mlp", "Students with commas between.")
PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes train together.", 1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.", 0)
ADDRESS = flags.DEFINE_string("address", "127.0.0.1:1234", "Address and port of process 0.")
SHARD_TABLES = flags.DEFINE_bool("shard_tables", False, "Divides tables among the devices.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each case, in turn.", 1)
OUTPUT_DIR = flags.DEFINE_string("output_dir", "results/processes", "Folder of the table.")
EPOCHS = 3

# Processes, devices of each, and whether tables are divided.
CASES = {
    "one process": (1, 1, False),
    "control": (1, 1, False),
    "two devices": (1, 2, False),
    "two devices, divided tables": (1, 2, True),
    "two processes": (2, 1, False),
    "two processes, divided tables": (2, 1, True),
}


class StepTimes(keras.callbacks.Callback):
    """The seconds of each step but the first of an epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.last = None

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # JAX returns before it has finished.
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


def distribution(
    divided: bool,
) -> keras.distribution.DataParallel | keras.distribution.ModelParallel:
    """The devices of all processes, with whole tables or with divided ones."""
    devices = keras.distribution.list_devices()
    if not divided:
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
    layout_map = keras.distribution.LayoutMap(mesh)
    keras_lstsd.shard_tables(layout_map)
    return keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="batch")


def train(student: str) -> float:
    """Trains in this process, one of several; returns the median of the seconds of a step."""
    # The lines that a training in several processes needs, before all else:
    if PROCESSES.value > 1:
        keras.distribution.initialize(ADDRESS.value, PROCESSES.value, PROCESS_ID.value)
    keras.distribution.set_distribution(distribution(SHARD_TABLES.value))
    # From here on as in one process, with all training samples in each.
    workload, times = STUDENTS[student], StepTimes()
    x, y = workload.data(2 * workload.turn + 6)
    model = trainable(workload, "lstsd", len(y))
    model.fit(x, y, batch_size=workload.batch_size, epochs=EPOCHS, verbose=0, callbacks=[times])
    return statistics.median(times.seconds)


def measure(student: str, processes: int, devices: int, divided: bool) -> float:
    """The seconds of a step, where processes with so many devices train on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "recipes.processes", f"--student={student}"]
    command += [f"--processes={processes}", f"--address=127.0.0.1:{port}"]
    command += ["--shard_tables"] * divided
    with tempfile.TemporaryFile("w+") as output:
        started = [
            subprocess.Popen(
                [*command, f"--process_id={number}"],
                env=environment,
                stdout=output if number == 0 else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(processes)
        ]
        failed = [process.wait() for process in started]
        if any(failed):
            raise SystemExit(f"A process ended with an error. Received: {failed}. Write: {command}")
        output.seek(0)
        return json.loads(output.read().splitlines()[-1])["seconds"]


def costs(students: list[str]) -> None:
    """Measures all cases in turn and writes the table."""
    first, *others = CASES
    columns = ["student", f"{first}, ms a step", *others, "divided / whole, two devices"]
    columns.append("divided / whole, two processes")
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"settings": {"rounds": ROUNDS.value, "columns": columns}, "runs": []}
    for student in students:
        cases = {name: partial(measure, student, *case) for name, case in CASES.items()}
        figures = in_turn(cases, ROUNDS.value)
        cells = [student, *ratios_row(figures.values(), unit=1e-3)]
        for kind in ("two devices", "two processes"):
            cells.append(ratios(figures[f"{kind}, divided tables"], figures[kind]))
        result = {"run": {"student": student}, "cells": cells, "figures": figures}
        record["runs"].append(result | {"environment": machine.environment()})
        # After each row, as it takes ten minutes.
        with saving.replacing(folder / "results.json") as part:
            part.write_text(json.dumps(record, indent=1))
        runs.progress(" | ".join(cells))
    table = tables.markdown(columns, [result["cells"] for result in record["runs"]])
    page = tables.write(folder / "table.md", table, record)
    tables.publish(page, record)
    print(f"\n{page}")


def main(argv):
    options.check_command(argv)
    if keras.backend.backend() != "jax":
        raise SystemExit(
            "Several processes train on Keras's JAX backend only. "
            f"Received: the {keras.backend.backend()} backend. Expected: "
            "`KERAS_BACKEND=jax python -m recipes.processes`."
        )
    students = options.names("student", STUDENT.value, list(STUDENTS))
    if PROCESS_ID.value is None:
        costs(students)
        return
    for student in students:
        print(json.dumps({"student": student, "seconds": train(student)}), flush=True)


if __name__ == "__main__":
    app.run(main)
