#!/usr/bin/env bash
# Run all tests: unit, contract and data tests, then the notebooks' outputs (nbval).
#   scripts/test.sh             everything
#   scripts/test.sh --quick     without the notebooks
#   scripts/test.sh --gcp       a run and its teardown in the project of config.yaml, under test
#                               names; costs money and needs credentials
#   scripts/test.sh ARGUMENTS   only pytest with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
case "${1:-}" in
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    "" | --quick) ;;
    --gcp)
        export CHURN_DEMO_TEST_TARGET=gcp
        exec .venv/bin/python -m pytest -rs tests/contract/test_wire.py ;;
    *) exec .venv/bin/python -m pytest "$@" ;;
esac
.venv/bin/python -m pytest -q tests
if [ "${1:-}" != --quick ]; then
    # A new local cloud for the test: the outputs to compare are those of a first run.
    LOCALCLOUD_STATE=$(mktemp -d)
    # As config.yaml says, whatever the last run used.
    export LOCALCLOUD_STATE CHURN_DEMO_SET="${CHURN_DEMO_SET:-"{}"}"
    trap '.venv/bin/python -m lib.localcloud stop >/dev/null; rm -rf "$LOCALCLOUD_STATE"' EXIT
    echo "running the seven notebooks and comparing their outputs (about two minutes)"
    .venv/bin/python -m pytest -q -p no:cacheprovider --nbval --nbval-current-env \
        --nbval-sanitize-with tests/notebooks/sanitize.cfg notebooks
fi
