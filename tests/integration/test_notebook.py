"""The notebook runs from its first cell to its last, made small."""

import json

import nbformat
import pytest
from helpers.launching import ENVIRONMENT, ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
SMALL = '"--max_steps", "2", "--eval_steps", "2", "--save_steps", "2", "--use_cpu", "true"'


def test_every_cell_of_the_committed_notebook_was_executed():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (training,) = [cell for cell in notebook.cells if "parse_options([" in cell.source]
    training.source = training.source.replace('"--overwrite"', f'"--overwrite", {SMALL}')
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
