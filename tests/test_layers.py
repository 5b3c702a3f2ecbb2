"""The layout of lib: which room imports which (pyproject.toml), and no foreign private names."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from lib.config import ROOT

IMAGES = ("components", "serving")  # folders of lib that become images of their own


def test_imports_follow_the_layers_of_pyproject():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_cloud_is_the_one_door_to_the_local_cloud():
    graph = grimp.build_graph("lib", cache_dir=None)
    stand_in = {"lib.localcloud", *graph.find_descendants("lib.localcloud")}
    importers = {importer for module in stand_in
                 for importer in graph.find_modules_that_directly_import(module)}
    assert importers - stand_in == {"lib.cloud"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ["lib", "scripts"])
def test_no_module_uses_the_private_names_of_another(folder):
    """By import, and as an attribute of an imported module of ours."""
    found = []
    for path in sources(folder):
        tree, modules = ast.parse(path.read_text()), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lib":
                modules |= {name.asname or name.name for name in node.names}
                found += [f"{path}: {name.name}" for name in node.names if name.name[0] == "_"]
        found += [f"{path}:{node.lineno}: {node.value.id}.{node.attr}" for node in ast.walk(tree)
                  if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                  and node.value.id in modules and node.attr.startswith("_")
                  and not node.attr.startswith("__")]
    assert not found


@pytest.mark.parametrize("room", IMAGES)
def test_an_image_imports_nothing_of_lib(room):
    for path in sources(f"lib/{room}"):
        imported = [name for node in ast.walk(ast.parse(path.read_text()))
                    for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else
                                 [n.name for n in node.names] if isinstance(node, ast.Import)
                                 else [])]
        assert not [name for name in imported if name.split(".")[0] == "lib"], path


def test_no_command_is_suggested_without_the_options_of_the_run():
    """By Settings.rerun_command, .command or .options; the local cloud's commands have none."""
    found = []
    for path in sources("lib"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and "\n" not in text and "{" not in text and re.match(
                    r"(\./run_all\.sh|\.venv/bin/python -m lib\.(?!localcloud))\S*$", text):
                found.append(f"{path.relative_to(ROOT)}: {text}")
    assert found == ["lib/operate/run.py: ./run_all.sh"]  # the name of the command itself
