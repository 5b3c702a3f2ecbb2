#!/usr/bin/env bash
# Make .venv and install requirements.txt into it. A later call with the same file does nothing.
# PYTHON=/path/to/python3.11 chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "stage:     set-up" >&2
    echo "cause:     no Python 3.11 or newer found" >&2
    echo "needed:    Python 3.11, or PYTHON=/path/to/python3.11 before the command" >&2
    return 1
}

wanted=$(cksum <requirements.txt)
if [ "$(cat .venv/installed 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi
echo "set-up: installing requirements.txt into .venv (about two minutes, once)"
python=$(find_python)
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then  # new, or left half-made
    "$python" -m venv .venv
fi
if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt; then
    echo "stage:     set-up" >&2
    echo "cause:     pip could not install requirements.txt (its message is above)" >&2
    echo "needed:    access to a Python package index" >&2
    exit 1
fi
echo "$wanted" >.venv/installed
