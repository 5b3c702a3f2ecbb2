#!/usr/bin/env bash
# Run all tests: unit, contract and data tests in two processes, and meanwhile the notebooks, whose
# outputs are compared (nbval).
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
# taken in the order of tests/conftest.py, the long ones first.
# nbval takes two seconds to import, in each worker.
files=(.venv/bin/python -m pytest -q -p no:nbval -n 2 --dist loadfile --no-loadscope-reorder tests)
[ "${1:-}" = --quick ] && exec "${files[@]}"

# A new local cloud for the notebooks: the outputs to compare are those of a first run.
folder=$(mktemp -d)
notebooks=
# shellcheck disable=SC2329  # called by the trap
end() {
    if [ -n "$notebooks" ]; then kill "$notebooks" 2>/dev/null || true; fi
    wait || true
    LOCALCLOUD_STATE="$folder/state" .venv/bin/python -m lib.localcloud stop >/dev/null || true
    rm -rf "$folder"
}
trap end EXIT
# CHURN_DEMO_SET: as config.yaml says, but English, whatever the last run used.
english='{"language": "en"}'
LOCALCLOUD_STATE="$folder/state" CHURN_DEMO_SET="${CHURN_DEMO_SET:-$english}" \
    .venv/bin/python -m pytest -q -p no:cacheprovider --nbval --nbval-current-env \
    --nbval-sanitize-with tests/notebooks/sanitize.cfg -p tests.support.forked_kernels \
    notebooks >"$folder/notebooks" 2>&1 &
notebooks=$!
failed=0
"${files[@]}" || failed=$?
echo "the seven notebooks, whose outputs are compared:"
wait "$notebooks" || failed=$?
notebooks=
cat "$folder/notebooks"
exit "$failed"
