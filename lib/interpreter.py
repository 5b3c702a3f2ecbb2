"""Check that this Python has the project's packages; standard library and old syntax only.

`import lib` calls it first, so that a notebook with another kernel, or a command with another
Python, says what to select, instead of which module it did not find.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("pydantic", "yaml", "requests", "pandas", "google.cloud.bigquery",
            "google.cloud.aiplatform_v1")
KERNEL = (".venv/bin/python -m ipykernel install --sys-prefix --name churn-demo "
          "--display-name 'Churn demo (.venv)'")


class WrongPython(ImportError):
    """This kernel's Python cannot run the project; the message says which one to select."""

    def _render_traceback_(self):
        """Jupyter shows this instead of a traceback."""
        return [f"STOPPED\n{self}"]


def missing(packages=PACKAGES):
    """Those of `packages` that this Python does not have."""
    return [name for name in packages if not _has(name)]


def _has(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # nor the package around it
        return False


def check(in_notebook=None):
    """Compare this Python with what the project needs.

    in_notebook: by default, whether this process is a notebook's kernel.

    Raises:
        WrongPython: in a notebook. Elsewhere SystemExit, which prints the message.
    """
    causes = [] if sys.version_info >= (3, 11) else ["is older than 3.11"]
    absent = missing()
    if absent:
        causes.append("has no " + ", ".join(absent))
    if not causes:
        return
    folder = Path(__file__).resolve().parents[1]
    lines = [f"cause:     this Python {' and '.join(causes)}: {sys.executable}",
             f"needed:    the project's Python, {folder}/.venv (scripts/setup.sh makes it)"]
    if "ipykernel" in sys.modules if in_notebook is None else in_notebook:
        lines += ["           JupyterLab: after the command below, Kernel > Change Kernel > "
                  "Churn demo (.venv)",
                  "           VS Code: Select Kernel > Python Environments > .venv",
                  "command:   " + KERNEL]
        raise WrongPython("\n".join(lines))
    lines.append("command:   the same with .venv/bin/python")
    raise SystemExit("\n".join(lines))
