"""Runs notebooks; as a script it runs all of them and stores their outputs in the files.

python -m tests.notebooks
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "recipes/notebooks").glob("*.ipynb"))


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Runs all cells in a new process, in `folder`, with this copy of the library."""
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})


def store(path: Path) -> None:
    """Runs a notebook and writes it with its outputs, without the messages of libraries."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, Path(folder))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    notebook.metadata.pop("language_info")  # has the version of Python
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in NOTEBOOKS:
        store(path)
        print(path.name)
