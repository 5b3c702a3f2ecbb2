"""The prose of the notebooks in another language, kept by cell: notebooks/ko/NN_name.md.

Such a file has the Markdown cells of notebooks/NN_name.ipynb, each below a line with its id:

    <!-- 01-04 -->
    ## 만들 것
"""

import re
from pathlib import Path

import nbformat

MARKER = re.compile(r"^<!-- (\d\d-\d\d\w*) -->$", re.M)


def folder(notebooks: Path, language: str) -> Path:
    """Where notebooks are presented in a language: their own folder, or one for their translated
    copies beside it, since they find `lib` in the folder above."""
    return notebooks if language == "en" else notebooks.with_name(f"{notebooks.name}_{language}")


def read(notebook: Path, language: str) -> dict[str, str]:
    """Cell id -> Markdown text of a notebook in a language; without a translation no text."""
    if language == "en":
        cells = nbformat.read(notebook, as_version=4).cells
        return {cell.id: cell.source for cell in cells if cell.cell_type == "markdown"}
    path = notebook.parent / language / f"{notebook.stem}.md"
    _, *parts = MARKER.split(path.read_text(encoding="utf-8")) if path.exists() else [""]
    return {key: text.strip() for key, text in zip(parts[::2], parts[1::2], strict=True)}


def localized(notebook: Path, language: str) -> Path:
    """The notebook to execute and to present in a language: `notebook` itself, or its copy in
    `folder`, written anew: the same code, translated prose, no outputs."""
    if language == "en":
        return notebook
    copy, texts = nbformat.read(notebook, as_version=4), read(notebook, language)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = texts.get(cell.id, cell.source)
    path = folder(notebook.parent, language) / notebook.name
    path.parent.mkdir(exist_ok=True)
    nbformat.write(copy, path)
    return path
