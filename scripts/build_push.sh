#!/usr/bin/env bash
# Build one image, push it, and pin its digest in lib/images.lock.json.
#   scripts/build_push.sh COMPONENT [options]
# COMPONENT is a folder's name under lib/components, or serving. With --cloud-build there may be
# several: one Cloud Build builds them in parallel.
#
#   --target gcp|local   push to serve.image_repository of config.yaml for it (default gcp)
#   --env dev|prod       and for this environment (default: config.yaml's)
#   --config FILE        another file than config.yaml
#   --registry HOST/PATH push to this repository instead
#   --version 1.2.3      also push this release tag
#   --allow-dirty        build uncommitted changes, with "-dirty" at the end of the tag
#   --cloud-build        build with Cloud Build: no local engine needed
#   --dry-run            only print what would be done; needs no engine
#
# The tag is the commit's first 12 digits. BASE_IMAGE=... in the environment replaces
# python:3.11-slim. The last line of the output is repository/name@sha256:..., from the registry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/images.sh
. scripts/images.sh

names=() target=gcp env='' registry='' version='' allow_dirty=false cloud_build=false
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --target) target=$(value_of "$@"); shift 2 ;;
        --env) env=$(value_of "$@"); shift 2 ;;
        --config) config=$(value_of "$@"); use_config "$config"; shift 2 ;;
        --registry) registry=$(value_of "$@"); shift 2 ;;
        --version) version=$(value_of "$@"); shift 2 ;;
        --allow-dirty) allow_dirty=true; shift ;;
        --cloud-build) cloud_build=true; shift ;;
        --dry-run) dry_run=true; shift ;;
        -*) misused "unknown option $1" ;;
        *) names+=("$1"); shift ;;
    esac
done
[ ${#names[@]} != 0 ] || misused "which component? $(components | paste -s -d " " -)"
[ ${#names[@]} = 1 ] || $cloud_build || misused "one component at a time, without --cloud-build"
for name in "${names[@]}"; do
    require_component "$name"
done
if [ -n "$version" ] && ! [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]]; then
    misused "--version $version is not like 1.2.3"
fi
if [ -n "$version" ] && $allow_dirty; then
    misused "--version needs a commit: it cannot be combined with --allow-dirty"
fi

# references I: the names under which the I-th image is pushed, one a line.
references() {
    echo "$repository/${names[$1]}:${tags[$1]}"
    [ -z "$version" ] || echo "$repository/${names[$1]}:$version"
}

# revision I: the commit of the I-th image.
revision() {
    case ${tags[$1]} in
        *-dirty) echo "$(git rev-parse HEAD)-dirty" ;;
        *) git rev-parse HEAD ;;
    esac
}

# The same arguments as for a local build; gcloud's `--tag` alone would leave out the labels.
# No step waits for another: waitFor ['-'].
write_cloud_build() {
    local i
    echo "steps:"
    for i in "${!names[@]}"; do
        echo "- id: ${names[$i]}"
        echo "  name: gcr.io/cloud-builders/docker"
        echo "  dir: ${names[$i]}"
        echo "  waitFor: ['-']"
        echo "  args: [build, --build-arg, REVISION=$(revision "$i"), --build-arg,"
        echo "         VERSION=${version:-${tags[$i]}},"
        [ -z "${BASE_IMAGE:-}" ] || echo "         --build-arg, BASE_IMAGE=$BASE_IMAGE,"
        references "$i" | sed "s/.*/         --tag, '&',/"
        echo "         .]"
    done
    echo "images:"
    for i in "${!names[@]}"; do
        references "$i" | sed "s/.*/- '&'/"
    done
}

# The folders of the images, side by side: what is sent to Cloud Build.
write_source() {
    local name
    mkdir "$work/source"
    for name in "${names[@]}"; do
        cp -R "$(folder_of "$name")" "$work/source/$name"
    done
    find "$work/source" -name __pycache__ -prune -exec rm -rf {} +
}

build_in_cloud() {
    local project=${repository#*/} i
    project=${project%%/*}
    local command=(gcloud builds submit "$work/source" --project "$project"
        --config "$work/cloudbuild.yaml")
    if $dry_run; then
        echo "  would copy: the folders of ${names[*]} into $work/source"
        echo "  would write: $work/cloudbuild.yaml"
        write_cloud_build | sed 's/^/    /'
    else
        write_source
        write_cloud_build >"$work/cloudbuild.yaml"
    fi
    if ! attempt "${command[@]}"; then
        fail "build of ${names[*]}" "Cloud Build failed:
$(last_lines)" "the Cloud Build API, roles/cloudbuild.builds.editor on $project, and Dockerfiles \
that build" "gcloud services enable cloudbuild.googleapis.com artifactregistry.googleapis.com \
--project $project"
    fi
    for i in "${!names[@]}"; do
        command=(gcloud artifacts docker images describe "$repository/${names[$i]}:${tags[$i]}"
            --project "$project" --format 'value(image_summary.digest)')
        if ! attempt "${command[@]}"; then
            fail "digest of ${names[$i]}" \
                "Artifact Registry did not return it: $(tail -n 1 "$work/log")" \
                "roles/artifactregistry.reader on $project" "${command[*]}"
        fi
        pin "${names[$i]}" "$($dry_run || grep -x 'sha256:[0-9a-f]\{64\}' "$work/log" || true)"
    done
}

build_here() {
    local reference pushed digest name=${names[0]} all=()
    reference=$repository/$name:${tags[0]}
    while read -r pushed; do
        all+=("$pushed")
    done < <(references 0)
    # The platform of Vertex AI; a laptop with another processor would build for its own.
    build_options=(--platform linux/amd64)
    build_image "$name" "$(revision 0)" "${version:-${tags[0]}}" "${all[@]}"
    $dry_run || echo "$name: built in $((SECONDS - began)) s, $(megabytes "$reference") MB"
    for pushed in "${all[@]}"; do
        push_image "$pushed"
    done
    if $dry_run; then
        registry_digest "$reference"
        pin "$name" ''
    else
        digest=$(registry_digest "$reference")
        pin "$name" "$digest"
    fi
}

# pin NAME DIGEST: write the digest into the lock.
pin() {
    if $dry_run; then
        echo "  would write: the digest into lib/images.lock.json, under $repository, $1"
        return
    fi
    if [ -z "$2" ]; then
        fail "digest of $1" "the registry's answer has none" "the image in the registry"
    fi
    "$python" scripts/pin.py "$repository/$1@$2"
    echo "$1: pushed and pinned in $((SECONDS - began)) s"
    echo "$repository/$1@$2"
}

repository=$(image_repository "$target" "$env" "$registry")
tags=()
for name in "${names[@]}"; do
    tag=$(source_tag "$name" "$allow_dirty")
    tags+=("$tag")
done
if $cloud_build && ! is_google "$repository"; then
    misused "--cloud-build pushes to Artifact Registry only, not to $repository"
fi

began=$SECONDS
if $dry_run; then
    echo "${names[*]}: dry run, nothing is done"
    work=/tmp
else
    require_python
    work=$(mktemp -d "${TMPDIR:-/tmp}/churn-images.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    if $cloud_build; then
        command -v gcloud >/dev/null ||
            fail engine "there is no gcloud command" "the Google Cloud CLI"
    else
        require_engine "a running Docker engine, or --cloud-build"
    fi
    for i in "${!names[@]}"; do
        echo "${names[$i]}: building $repository/${names[$i]}:${tags[$i]}"
    done
fi
if $cloud_build; then build_in_cloud; else build_here; fi
