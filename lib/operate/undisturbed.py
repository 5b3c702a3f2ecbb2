"""Imported first by the process from which kernels are forked. Until frozen.py Python does not
search what it imports for garbage, an eighth of the time, and Ctrl-C, which ends the run and so
this process too, does not print where it was."""

import gc
import signal

gc.disable()
signal.signal(signal.SIGINT, signal.SIG_IGN)
