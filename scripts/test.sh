#!/usr/bin/env bash
# Run all tests, in three processes: unit, contract and data tests, and the notebooks, whose outputs
# are compared (nbval).
#   scripts/test.sh             everything
#   scripts/test.sh --quick     without the notebooks
#   scripts/test.sh --gcp       a run and its teardown in the project of config.yaml, under test
#                               names; costs money and needs credentials
#   scripts/test.sh ARGUMENTS   only pytest with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
case "${1:-}" in
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    "" | --quick) ;;
    --gcp)
        export CHURN_DEMO_TEST_TARGET=gcp
        exec .venv/bin/python -m pytest -rs tests/contract/test_wire.py ;;
    *) exec .venv/bin/python -m pytest "$@" ;;
esac

# Each worker takes a whole file: its tests share a local cloud, or build on each other. They are
# taken in the order of tests/conftest.py, the long ones first. One of them compares the notebooks'
# outputs, by a pytest of its own: nbval takes two seconds to import, in each worker.
files=(.venv/bin/python -m pytest -q -p no:nbval -n 3 --dist loadfile --no-loadscope-reorder tests)
[ "${1:-}" = --quick ] && files+=(--ignore=tests/notebooks/test_outputs.py)
exec "${files[@]}"
