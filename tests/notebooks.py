"""Runs a notebook; as a script it runs all of them and keeps what they put out in their files.

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
    """Runs all cells in a process of their own, in `folder`, on this copy of the library."""
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})


def keep(path: Path) -> None:
    """Runs a notebook and writes it with its outputs, less what libraries log."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, Path(folder))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    notebook.metadata.pop("language_info")  # names the version of Python it was run with
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in NOTEBOOKS:
        keep(path)
        print(path.name)
