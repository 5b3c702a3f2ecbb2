#!/usr/bin/env bash
# Make a working component and its test from lib/components/_template.
#   scripts/new_component.sh NAME [--dry-run]
# NAME consists of a-z, 0-9 and "_". Writes lib/components/NAME and tests/components/test_NAME.py;
# overwrites nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/images.sh
. scripts/images.sh

name=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --dry-run) dry_run=true; shift ;;
        -*) misused "unknown option $1" ;;
        *) [ -z "$name" ] || misused "one component at a time"; name=$1; shift ;;
    esac
done
[ -n "$name" ] || misused "which name?"
# Image names allow no "__", and no "_" at the start or end.
if ! [[ $name =~ ^[a-z][a-z0-9]*(_[a-z0-9]+)*$ ]] || [ ${#name} -gt 40 ]; then
    misused "'$name' is not a name of a-z, 0-9 and single '_', at most 40 characters"
fi
folder=lib/components/$name test=tests/components/test_$name.py
# `images` would be the name of a test file that exists.
if [ "$name" = serving ] || [ -e "$folder" ] || [ -e "$test" ]; then
    fail "new component" "$name exists already" "another name"
fi

if $dry_run; then
    echo "  would write: $folder, from lib/components/_template"
    echo "  would write: $test"
    exit 0
fi

draft=lib/components/.$name.$$
trap 'rm -rf "$draft"' EXIT
cp -R lib/components/_template "$draft"
find "$draft" -name __pycache__ -prune -exec rm -rf {} +
for file in src/main.py component.yaml Dockerfile; do
    # -i.bak: the one form of -i that both GNU and BSD sed accept
    sed -i.bak -e "s/template/$name/g" \
        -e "s/^# The smallest component: .*/# $name: rows of each split of a dataset./" \
        "$draft/$file"
    rm "$draft/$file.bak"
done
cat >"$draft/README.md" <<README
# $name

Rows of each split of a dataset -> \`row_counts.json\`.

    python src/main.py --input_dataset /tmp/dataset --output_dataset /tmp/counts
README
mv "$draft" "$folder"
sed "s/_\{0,1\}template/$name/g" tests/components/test_template.py >"$test"
echo "made $folder and $test"
echo "next: replace count_rows in $folder/src/main.py by your work, then"
echo "  scripts/test.sh $test tests/components/test_images.py"
echo "  scripts/smoke_test.sh $name"
echo "  scripts/build_push.sh $name"
