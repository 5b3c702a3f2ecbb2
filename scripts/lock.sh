#!/usr/bin/env bash
# Write the requirements.lock of each image: the pins of its requirements.txt, with the SHA-256 of
# every file that the package index has for them. Run it after a change of a requirements.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
    sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
if ! command -v uv >/dev/null; then
    echo "stage:     lock" >&2
    echo "cause:     uv is not installed" >&2
    echo "needed:    pip install uv" >&2
    exit 1
fi
for requirements in lib/components/*/requirements.txt lib/serving/requirements.txt; do
    # --no-deps: all packages are listed. The build of the image checks it (pip check).
    uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate \
        --python-version 3.11 "$requirements" --output-file "${requirements%.txt}.lock"
    echo "written: ${requirements%.txt}.lock"
done
