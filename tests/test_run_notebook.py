"""`make notebook` keeps outputs, drops what varies, and leaves a notebook that fails as it was."""

import json
import re

import nbformat
import pytest
import run_notebook
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SOURCE = """
import sys, time, warnings
import matplotlib.pyplot as plt
warnings.warn("not for readers")
print("a result"); print("an error", file=sys.stderr); print("and another")
plt.plot([1, 2]); plt.show()
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Return a function that makes the folder's only notebook of a cell."""
    monkeypatch.setattr(run_notebook, "ROOT", tmp_path)

    def make(source):
        path = tmp_path / "notebooks" / "01-small.ipynb"
        path.parent.mkdir(exist_ok=True)
        editor = {"tags": ["a"], "vscode": {"languageId": "python"}, "ExecuteTime": {"start": "1"}}
        cells = [new_markdown_cell("# Small"), new_code_cell(source, metadata=editor)]
        kernel = {"kernelspec": {"name": "mine", "display_name": "Mine"}}
        nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
        return path

    return make


def test_two_executions_differ_in_nothing(notebook):
    path = notebook(SOURCE)
    assert run_notebook.main(["01-small"]) == 0
    first = path.read_text("utf-8")
    assert run_notebook.main(["01-small"]) == 0
    assert path.read_text("utf-8") == first
    found = json.loads(first)
    assert found["metadata"]["kernelspec"] == run_notebook.KERNEL
    assert found["metadata"]["language_info"] == {"name": "python"}
    cell = found["cells"][1]
    assert cell["metadata"] == {"tags": ["a"]} and cell["execution_count"] == 1
    texts = [output["text"] for output in cell["outputs"] if output["output_type"] == "stream"]
    assert sum(texts, []) == ["a result\n", "and another\n"]
    assert any("image/png" in output.get("data", {}) for output in cell["outputs"])


def test_a_notebook_that_fails_stays_as_it_was(notebook, capsys):
    path = notebook("print('so far')\n1 / 0")
    before = path.read_bytes()
    assert run_notebook.main(["01-small"]) == 1
    assert path.read_bytes() == before
    message = capsys.readouterr().err
    assert "ZeroDivisionError" in message and message.endswith("The notebook was left as it was.\n")


@pytest.mark.parametrize("wrong", [[], ["02-nothing"], ["01-small", "template"]])
def test_an_unknown_name_is_one_sentence(notebook, capsys, wrong):
    notebook("1")
    assert run_notebook.main(wrong) == 2
    message = capsys.readouterr().err
    assert re.fullmatch(r"Name one of the notebooks: 01-small, template\n", message)
