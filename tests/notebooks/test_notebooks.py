"""The seven notebooks as documents: what their source and their committed outputs must hold."""

import ast
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("0*.ipynb"))
WIDE = 200  # characters of an output's line


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook, kind):
    """The text of every output of one kind, such as "text/plain" or "stream"."""
    found = [output for cell in code_cells(notebook) for output in cell.outputs]
    if kind == "stream":
        return [output.text for output in found if output.output_type == "stream"]
    return [output.data[kind] for output in found if kind in output.get("data", {})]


def test_there_are_seven():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"0{n}" for n in range(1, 8)]


def test_the_header_says_the_goal_three_things_to_see_and_the_inputs(notebook):
    header = notebook.cells[0].source
    assert header.startswith("# ") and "**Goal.**" in header and "*Inputs:*" in header
    assert len(re.findall(r"^- ", header, re.M)) == 3
    takeaways = notebook.cells[-1].source
    assert takeaways.startswith("## Takeaways") and ".ipynb)" in takeaways
    assert len(re.findall(r"^- ", takeaways, re.M)) == 3


def test_prose_comes_before_code(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[:3] == ["markdown", "code", "code"]  # the parameters, and the set-up
    assert all(kinds[n - 1] == "markdown" for n in range(3, len(kinds)) if kinds[n] == "code")


def test_code_is_short_and_calls_lib(notebook):
    lines = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    assert max(lines) <= 12 and median(lines) <= 3
    tree = ast.parse("\n".join(cell.source for cell in code_cells(notebook)))
    kinds = {type(node) for node in ast.walk(tree)}
    assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.If}
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                for alias in node.names]
    imported += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in imported} == {"os", "sys", "lib"}


def test_the_last_notebook_has_at_most_16_code_cells():
    assert len(code_cells(nbformat.read(NOTEBOOKS[-1], as_version=4))) <= 16


def test_every_output_reads_without_a_style_sheet(notebook):
    for html in outputs(notebook, "text/html"):
        assert "<style" not in html and html.startswith("<table>")
    for text in outputs(notebook, "text/plain"):
        assert not re.search(r"<[\w.]+ object|\bat 0x", text) and not text.startswith(("{", "["))


def test_no_output_line_is_said_twice_or_holds_a_resource_path(notebook):
    lines = [line for text in outputs(notebook, "stream") for line in text.splitlines()]
    assert len(lines) == len(set(lines)) and max(map(len, lines), default=0) <= WIDE
    assert not any("projects/" in line for line in lines)
    assert not any(re.fullmatch(r".*: started", line) for line in lines)


def test_the_command_that_executes_them(tmp_path, monkeypatch):
    """scripts/execute_notebooks.py on a notebook of its own: this Python, outputs in the file."""
    import sys

    from scripts import execute_notebooks

    path = tmp_path / "01_tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("import sys; print(sys.executable)")]), path)
    monkeypatch.setattr(execute_notebooks, "NOTEBOOKS", [path])
    monkeypatch.setattr(execute_notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(execute_notebooks.subprocess, "run", lambda *_, **__: None)
    for name in ("LOCALCLOUD_STATE", "CHURN_DEMO_RUNS"):
        monkeypatch.setenv(name, "put back afterwards")
    assert execute_notebooks.main([]) == 0
    (cell,) = nbformat.read(path, as_version=4).cells
    assert cell.outputs[0].text.strip() == sys.executable
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert execute_notebooks.main([]) == 1 and path.read_bytes() == before
