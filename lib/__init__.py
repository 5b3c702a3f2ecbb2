import sys

from lib import interpreter

interpreter.check()
# Jupyter's packages check notebooks with jsonschema, which would import this one, whose grammar
# takes 1.4 s, for a format (IRI) that no notebook has; it does without one that is missing.
sys.modules.setdefault("rfc3987_syntax", None)
