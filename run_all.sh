#!/usr/bin/env bash
# Run the seven notebooks, unattended: ./run_all.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# First of all, so that the terminal is not empty while packages load.
echo "checking the installation and loading packages" >&2
scripts/setup.sh
export PYTHONUTF8=1  # files and terminals are UTF-8, whatever the locale says
exec .venv/bin/python -m lib.operate.run "$@"
