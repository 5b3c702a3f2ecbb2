"""Imports parts of a Google client package without the whole.

`google.cloud.aiplatform_v1` imports the clients of forty services. The local cloud needs messages
and http rules only: a fifth of the CPU of its imports would be for nothing.
"""

import importlib.util
import sys
import threading


def import_parts_of(name: str) -> None:
    """Make a package that is imported from now on import its submodules when they are asked for;
    it runs its own code only once another attribute is asked for."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    package = sys.modules[name] = importlib.util.module_from_spec(spec)
    lock = threading.RLock()

    def ask(attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        try:
            return importlib.import_module(f"{name}.{attribute}")
        except ModuleNotFoundError:
            with lock:
                if vars(package).pop("__getattr__", None):
                    spec.loader.exec_module(package)
            return getattr(package, attribute)

    package.__getattr__ = ask
    parent, _, child = name.rpartition(".")
    setattr(importlib.import_module(parent), child, package)
