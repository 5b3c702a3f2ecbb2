#!/usr/bin/env bash
# Build and push every image, or only what changed, and pin the digests in lib/images.lock.json.
#   scripts/build_push_all.sh [options]
#
#   --changed-since REV  only components whose folder's content differs between that commit and
#                        the working tree; 0 means all components
#   --list, --list-json  only print the names that would be built: one a line, or a JSON list
#   --check              only check that a build would not be refused for uncommitted changes
#   --dry-run            only print what would be done; needs no engine
#
# and options of build_push.sh: --target, --env, --config, --registry, --version, --allow-dirty,
# --cloud-build, which builds all in parallel. Docker builds one after the other, and stops at the
# first failure; the images pushed before it stay pinned.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/images.sh
. scripts/images.sh

since='' list='' allow_dirty=false cloud_build=false
pass=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --changed-since) since=$(value_of "$@"); shift 2 ;;
        --list) list=lines; shift ;;
        --list-json) list=json; shift ;;
        --check) list=check; shift ;;
        --target | --env | --registry | --version) pass+=("$1" "$(value_of "$@")"); shift 2 ;;
        --config) config=$(value_of "$@"); use_config "$config"; shift 2 ;;
        --allow-dirty) allow_dirty=true; pass+=("$1"); shift ;;
        --cloud-build) cloud_build=true; pass+=("$1"); shift ;;
        --dry-run) dry_run=true; pass+=("$1"); shift ;;
        *) misused "unknown argument $1" ;;
    esac
done

[ -z "$since" ] || require_commit "$since"
names=()
for name in $(components); do
    if [ -z "$since" ] || changed_since "$since" "$name"; then
        names+=("$name")
    fi
done

case $list in
    lines)
        [ ${#names[@]} = 0 ] || printf '%s\n' "${names[@]}"
        exit 0 ;;
    json)
        json=,
        [ ${#names[@]} = 0 ] || json=$(printf ',"%s"' "${names[@]}")
        echo "[${json:1}]"
        exit 0 ;;
esac
if [ ${#names[@]} = 0 ]; then
    echo "nothing changed since $since: nothing to build"
    exit 0
fi

# Check all before the first is built: half a set of images is of little use.
for name in "${names[@]}"; do
    source_tag "$name" "$allow_dirty" >/dev/null
done
[ "$list" != check ] || exit 0
echo "to build: ${names[*]}"
if $cloud_build; then
    scripts/build_push.sh "${names[@]}" "${pass[@]}"
else
    for name in "${names[@]}"; do
        scripts/build_push.sh "$name" "${pass[@]+"${pass[@]}"}"
    done
fi
$dry_run || echo "done: ${#names[@]} images in $SECONDS s"
