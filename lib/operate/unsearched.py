"""Imported first by the process from which kernels are forked: until frozen.py, Python does not
search for garbage what it imports, which would be an eighth of the time."""

import gc

gc.disable()
