#!/usr/bin/env bash
# Run the seven notebooks on real orders, and show what the naive join promises and keeps on them
# beside theLook, in runs/latest/report.html.
#   scripts/real_orders.sh
# The orders are Bruce Hardie's public CDNOW set, out of a PyPI package that is not installed. Their
# licence is not stated: they stay in .real_orders on your machine. lib/README.md, "Bring your own
# orders", has the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
folder=$PWD/.real_orders
python=.venv/bin/python

if ! [ -f "$folder/CDNOW/order_items.csv" ]; then
    rm -rf "$folder"
    if ! "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --dest "$folder" lifetimes==0.11.3; then
        echo "stage:     real orders" >&2
        echo "cause:     pip could not download lifetimes 0.11.3 (its message is above)" >&2
        echo "needed:    access to a Python package index" >&2
        exit 1
    fi
    "$python" -m zipfile -e "$folder"/*.whl "$folder/package"
    "$python" -m scripts.real_orders "$folder/package/lifetimes/datasets/CDNOW_master.txt" \
        "$folder/CDNOW"
fi

# Resources of their own, so that those made from theLook stay as they are.
sed -E 's/^app: +[^ #]+/app: cdnow/' config.yaml >"$folder/config.yaml"

# The other half of the comparison, if there is no run yet.
[ -e runs/latest ] || ./run_all.sh
./run_all.sh --config "$folder/config.yaml" --source "$folder/CDNOW"
"$python" -m lib.report --compare
