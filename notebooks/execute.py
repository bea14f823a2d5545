"""Makes the notebooks of their scripts: executed from top to bottom, with outputs and figures.

    python notebooks/execute.py [NAME ...]

runs `NAME.py`, by default all of them, as its first cell sets it, and writes `NAME.ipynb` beside
it. Needs the extra `test`.
"""

import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

# What TensorFlow says of the machine before anybody can tell it not to.
START_UP = ("WARNING: All log messages before absl", "I0000", "W0000", "INFO: Created TensorFlow")

FOLDER = Path(__file__).resolve().parent
HELPERS = ("execute", "images")


def number(path: Path) -> int:
    """By which notebooks are sorted."""
    return int(path.stem.partition("_")[0])


SCRIPTS = [path for path in FOLDER.glob("*.py") if path.stem not in HELPERS]
NAMES = [path.stem for path in sorted(SCRIPTS, key=number)]


def read(name: str) -> nbformat.NotebookNode:
    """The notebook that a script is, without outputs."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    }
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"  # jupytext's are random: a second run would change every cell
    return notebook


def with_parameters(notebook: nbformat.NotebookNode, **values) -> nbformat.NotebookNode:
    """The notebook with other values behind the cell that is tagged `parameters`."""
    tagged = [
        index
        for index, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    code = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(code))
    return notebook


def executed(notebook: nbformat.NotebookNode, seconds: int = 1800) -> nbformat.NotebookNode:
    """The notebook with what its cells print and draw; raises where a cell raises."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no lines about the machine in outputs
    resources = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(notebook, timeout=seconds, resources=resources, record_timing=False)
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_start_up, cell.outputs) if output]
    return notebook


def _without_start_up(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    if output.output_type == "stream" and output.name == "stderr":
        lines = output.text.splitlines(keepends=True)
        output.text = "".join(line for line in lines if not line.startswith(START_UP))
        return output if output.text.strip() else None
    return output


if __name__ == "__main__":
    for one in sys.argv[1:] or NAMES:
        nbformat.write(executed(read(one)), FOLDER / f"{one}.ipynb")
        print("written:", f"{one}.ipynb")
