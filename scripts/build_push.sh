#!/usr/bin/env bash
# Build one image, push it, and pin its digest in lib/images.lock.json.
#   scripts/build_push.sh COMPONENT [options]
# COMPONENT is a folder's name under lib/components, or serving.
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

name='' target=gcp env='' registry='' version='' allow_dirty=false cloud_build=false
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
        *) [ -z "$name" ] || misused "one component at a time"; name=$1; shift ;;
    esac
done
[ -n "$name" ] || misused "which component? $(components | paste -s -d " " -)"
require_component "$name"
if [ -n "$version" ] && ! [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]]; then
    misused "--version $version is not like 1.2.3"
fi
if [ -n "$version" ] && $allow_dirty; then
    misused "--version needs a commit: it cannot be combined with --allow-dirty"
fi

# The same arguments as for a local build; gcloud's `--tag` alone would leave out the labels.
write_cloud_build() {
    local reference
    echo "steps:"
    echo "- name: gcr.io/cloud-builders/docker"
    echo "  args: [build, --build-arg, REVISION=$revision, --build-arg, VERSION=${version:-$tag},"
    [ -z "${BASE_IMAGE:-}" ] || echo "         --build-arg, BASE_IMAGE=$BASE_IMAGE,"
    for reference in "${references[@]}"; do
        echo "         --tag, '$reference',"
    done
    echo "         .]"
    echo "images:"
    for reference in "${references[@]}"; do
        echo "- '$reference'"
    done
}

build_in_cloud() {
    local project=${repository#*/}
    project=${project%%/*}
    local command=(gcloud builds submit "$(folder_of "$name")" --project "$project"
        --config "$work/cloudbuild.yaml")
    if $dry_run; then
        echo "  would write: $work/cloudbuild.yaml"
        write_cloud_build | sed 's/^/    /'
    else
        write_cloud_build >"$work/cloudbuild.yaml"
    fi
    if ! attempt "${command[@]}"; then
        fail "build of $name" "Cloud Build failed:
$(last_lines)" "the Cloud Build API, roles/cloudbuild.builds.editor on $project, and a Dockerfile \
that builds" "gcloud services enable cloudbuild.googleapis.com artifactregistry.googleapis.com \
--project $project"
    fi
    command=(gcloud artifacts docker images describe "$reference" --project "$project"
        --format 'value(image_summary.digest)')
    if ! attempt "${command[@]}"; then
        fail "digest of $name" "Artifact Registry did not return it: $(tail -n 1 "$work/log")" \
            "roles/artifactregistry.reader on $project" "${command[*]}"
    fi
    $dry_run || digest=$(grep -x 'sha256:[0-9a-f]\{64\}' "$work/log" || true)
}

build_here() {
    # The platform of Vertex AI; a laptop with another processor would build for its own.
    build_options=(--platform linux/amd64)
    build_image "$name" "$revision" "${version:-$tag}" "${references[@]}"
    $dry_run || echo "$name: built in $((SECONDS - began)) s, $(megabytes "$reference") MB"
    local pushed
    for pushed in "${references[@]}"; do
        push_image "$pushed"
    done
    if $dry_run; then registry_digest "$reference"; else digest=$(registry_digest "$reference"); fi
}

repository=$(image_repository "$target" "$env" "$registry")
tag=$(source_tag "$name" "$allow_dirty")
revision=$(git rev-parse HEAD)
[ "${tag%-dirty}" = "$tag" ] || revision=$revision-dirty
reference=$repository/$name:$tag
references=("$reference")
[ -z "$version" ] || references+=("$repository/$name:$version")
if $cloud_build && ! is_google "$repository"; then
    misused "--cloud-build pushes to Artifact Registry only, not to $repository"
fi

digest='' began=$SECONDS
if $dry_run; then
    echo "$name: dry run, nothing is done"
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
    echo "$name: building $reference"
fi
if $cloud_build; then build_in_cloud; else build_here; fi
if $dry_run; then
    echo "  would write: the digest into lib/images.lock.json, under $repository, $name"
    exit 0
fi
if [ -z "$digest" ]; then
    fail "digest of $name" "the registry's answer has none" "the image in the registry"
fi
"$python" scripts/pin.py "$repository/$name@$digest"
echo "$name: pushed and pinned in $((SECONDS - began)) s"
echo "$repository/$name@$digest"
