#!/usr/bin/env bash
# Run the seven notebooks, unattended: ./run_all.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
scripts/setup.sh
export PYTHONUTF8=1  # files and terminals are UTF-8, whatever the locale says
exec .venv/bin/python -m lib.operate.run "$@"
