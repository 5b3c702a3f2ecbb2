import gc
import sys

from lib import interpreter

interpreter.check()
# Google's and Jupyter's packages make half a million objects that stay. Python's own threshold
# (700) searches them for garbage so often that a quarter of each start is spent on it.
gc.set_threshold(10_000)
# Jupyter's packages check notebooks with jsonschema, which would import this one, whose grammar
# takes 1.4 s, for a format (IRI) that no notebook has; it does without one that is missing.
sys.modules.setdefault("rfc3987_syntax", None)
