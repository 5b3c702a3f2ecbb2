"""Imported last by the process from which kernels are forked: what it has imported stays. Python
then does not search it for garbage, which would take half a second at its end, and would copy the
memory that a kernel shares."""

import gc
import signal

gc.freeze()
gc.enable()
signal.signal(signal.SIGINT, signal.default_int_handler)
