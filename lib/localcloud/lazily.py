"""Imports parts of a Google client package without the whole.

`google.cloud.aiplatform_v1` imports the clients of forty services. The local cloud needs messages
and http rules only, a command the clients of two or three services: the others take half a second.
"""

import importlib.util
import re
import sys
import threading
from contextlib import suppress


def import_parts_of(name: str) -> None:
    """Make a package that is imported from now on import its submodules, its messages, and the
    client of a service when they are asked for; it runs its own code only once another attribute
    is asked for."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    package = sys.modules[name] = importlib.util.module_from_spec(spec)
    lock, begun = threading.RLock(), []

    def ask(attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        with suppress(ModuleNotFoundError):
            return importlib.import_module(f"{name}.{attribute}")
        service = re.sub(r"\B(?=[A-Z])", "_", attribute.removesuffix("Client")).lower()
        for part in (f"services.{service}", "types"):
            with suppress(ModuleNotFoundError, AttributeError):
                found = getattr(importlib.import_module(f"{name}.{part}"), attribute)
                return vars(package).setdefault(attribute, found)
        with lock:  # another thread waits here until the whole is there
            if not begun:
                begun.append(attribute)
                spec.loader.exec_module(package)
                del package.__getattr__
        if attribute not in vars(package):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        return vars(package)[attribute]

    package.__getattr__ = ask
    parent, _, child = name.rpartition(".")
    setattr(importlib.import_module(parent), child, package)
