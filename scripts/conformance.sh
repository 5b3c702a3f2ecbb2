#!/usr/bin/env bash
# Ask a cloud what the rules of the local cloud say, and record Google's answers.
#   scripts/conformance.sh --target gcp [--lane cheap|full] [--yes]
#   scripts/conformance.sh --help      everything about it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec .venv/bin/python -m scripts.conformance "$@"
