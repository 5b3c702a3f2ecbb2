# shellcheck shell=bash
# What the image scripts share. To be sourced from the repository's root. Kept to bash 3.2, macOS's.

dry_run=false       # true: `attempt` prints instead of running
work=''             # a temporary folder, which who sources this makes and removes
build_options=()    # more options of docker build
python=.venv/bin/python
export PYTHONDONTWRITEBYTECODE=1
# With its default attestations buildx pushes an index, and the digest would not be the image's.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1

# fail STAGE CAUSE NEEDED [COMMAND]: say what went wrong and what helps, and end with status 1.
fail() {
    {
        echo "stage:     $1"
        echo "cause:     $2"
        echo "needed:    $3"
        [ -z "${4:-}" ] || echo "command:   $4"
    } >&2
    exit 1
}

# misused MESSAGE: a bad command line ends with status 2.
misused() {
    echo "$(basename "$0"): $1 (see --help)" >&2
    exit 2
}

# The comment at the top of the script is its help.
show_help() {
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
}

# value_of OPTION [VALUE]: the value, or a refusal; for `name=$(value_of "$@") && shift 2`.
value_of() {
    if [ $# -lt 2 ] || [ -z "$2" ]; then
        misused "$1 needs a value"
    fi
    echo "$2"
}

# attempt COMMAND...: run it with its output in $work/log; on a dry run only print it.
attempt() {
    if $dry_run; then
        printf '  would run:'
        printf ' %q' "$@"
        echo
    else
        "$@" >"$work/log" 2>&1
    fi
}

# The last lines that `attempt` caught, for a cause.
last_lines() {
    tail -n "${1:-12}" "$work/log" | sed 's/^/    /'
}

# --- components -------------------------------------------------------------------------------

# Names of all images, one a line.
components() {
    local file
    for file in lib/components/[a-z]*/Dockerfile lib/serving/Dockerfile; do
        [ ! -f "$file" ] || basename "$(dirname "$file")"
    done
}

folder_of() {
    if [ "$1" = serving ]; then echo lib/serving; else echo "lib/components/$1"; fi
}

require_component() {
    if ! components | grep -xF -- "$1" >/dev/null; then
        misused "'$1' is not a component; there are $(components | paste -s -d " " -)"
    fi
}

# changed_since REV NAME: true if the folder's content differs from that commit's. New files
# count, ignored ones do not; a commit that was taken back since does not either.
changed_since() {
    local folder status=0
    folder=$(folder_of "$2")
    if [[ $1 =~ ^0+$ ]]; then   # what GitHub calls the commit before the first one
        return 0
    fi
    git diff --quiet "$1" -- "$folder" || status=$?
    if [ "$status" -gt 1 ]; then
        fail "what changed" "git cannot compare with $1" "a commit of this clone"
    fi
    [ "$status" = 1 ] || [ -n "$(git ls-files --others --exclude-standard -- "$folder")" ]
}

require_commit() {
    if ! [[ $1 =~ ^0+$ ]] && ! git rev-parse --quiet --verify "$1^{commit}" >/dev/null; then
        fail "what changed" "$1 is not a commit of this clone" \
            "a revision that git knows; a shallow clone lacks the older ones" "git fetch --unshallow"
    fi
}

# source_tag NAME ALLOW_DIRTY: the commit's first 12 digits, with -dirty if the folder or the
# scripts hold more than the commit. Without ALLOW_DIRTY=true that is refused: the tag would lie.
source_tag() {
    local sha dirty
    if ! sha=$(git rev-parse --short=12 --verify --quiet HEAD); then
        fail "tag of $1" "this is not a git clone with a commit" \
            "a commit: the tag of an image names its source" \
            "git init && git add --all && git commit --message 'The demo as it came'"
    fi
    dirty=$(git status --porcelain --untracked-files=all -- "$(folder_of "$1")" scripts)
    if [ -z "$dirty" ]; then
        echo "$sha"
    elif [ "$2" = true ]; then
        echo "$sha-dirty"
    else
        fail "tag of $1" "uncommitted changes:
$dirty" "a commit, or --allow-dirty for an image tagged $sha-dirty" \
            "git add --all && git commit"
    fi
}

# --- engine and registry ----------------------------------------------------------------------

# require_engine NEEDED: what to ask for when there is none.
require_engine() {
    if ! command -v docker >/dev/null; then
        fail engine "there is no docker command" "$1"
    fi
    if ! attempt docker info; then
        fail engine "docker does not answer: $(tail -n 1 "$work/log")" "$1" "docker info"
    fi
}

require_python() {
    if ! [ -x "$python" ]; then
        fail set-up "there is no $python" "the project's environment" scripts/setup.sh
    fi
}

# image_repository TARGET ENV REGISTRY: HOST/PATH of the images; REGISTRY, if given, is it.
image_repository() {
    local repository=$3
    if [ -z "$repository" ]; then
        require_python
        if ! repository=$("$python" -c '
import sys
from lib import config
try:
    print(config.load(target=sys.argv[1], env=sys.argv[2] or None).serve.image_repository)
except config.ConfigError as error:
    sys.exit(str(error))' "$1" "$2" 2>&1); then
            fail registry "$repository" "a configuration for --target $1, or --registry HOST/PATH" \
                "edit config.yaml"
        fi
        if [ "$1" = local ] && is_google "$repository"; then
            fail registry "--target local has no registry: it runs the images' folders" \
                "--target gcp, or --registry HOST/PATH"
        fi
    fi
    if ! [[ $repository =~ ^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+$ ]]; then
        misused "'$repository' is not a registry's HOST/PATH"
    fi
    echo "$repository"
}

is_google() {
    [[ $1 == *-docker.pkg.dev/*/* ]]
}

# build_image NAME REVISION VERSION REFERENCE...
build_image() {
    local name=$1 reference
    local command=(docker build "${build_options[@]+"${build_options[@]}"}")
    [ -z "${BASE_IMAGE:-}" ] || command+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
    command+=(--build-arg "REVISION=$2" --build-arg "VERSION=$3")
    shift 3
    for reference in "$@"; do
        command+=(--tag "$reference")
    done
    if ! attempt "${command[@]}" "$(folder_of "$name")"; then
        fail "build of $name" "docker build failed:
$(last_lines)" "a Dockerfile that builds: $(folder_of "$name")/Dockerfile"
    fi
}

# Size of an image in MB.
megabytes() {
    echo $(($(docker image inspect --format '{{.Size}}' "$1") / 1000000))
}

# explain_push REFERENCE: end with what the registry's refusal, in $work/log, calls for.
explain_push() {
    local repository=${1%/*} host=${1%%/*} region project path
    local stage="push of ${1##*/}" cause
    cause="$host refused: $(tail -n 1 "$work/log")"
    region=${host%-docker.pkg.dev}
    project=${repository#*/}; path=${project#*/}; project=${project%%/*}
    case $(cat "$work/log") in
        *[Uu]nauthenticated* | *"no basic auth"* | *unauthorized* | *"uthentication required"*)
            if is_google "$1"; then
                fail "$stage" "$cause" "docker to log in with your Google account" \
                    "gcloud auth configure-docker $host"
            fi
            fail "$stage" "$cause" "docker to be logged in" "docker login $host" ;;
        *"name unknown"* | *NAME_UNKNOWN* | *"not found"*)
            if is_google "$1"; then
                fail "$stage" "$cause" "the repository $path in project $project, $region" \
                    "gcloud artifacts repositories create $path --repository-format docker --location $region --project $project"
            fi
            fail "$stage" "$cause" "a repository $repository" ;;
        *denied* | *[Ff]orbidden*)
            if is_google "$1"; then
                fail "$stage" "$cause" \
                    "roles/artifactregistry.writer on the repository $path, and that it exists" \
                    "gcloud artifacts repositories create $path --repository-format docker --location $region --project $project"
            fi
            fail "$stage" "$cause" "the right to push to $repository" ;;
        *) fail "$stage" "docker push failed:
$(last_lines 5)" "a registry that answers at $host" "docker push $1" ;;
    esac
}

push_image() {
    if ! attempt docker push "$1"; then
        explain_push "$1"
    fi
}

# registry_digest REFERENCE: asked of the registry, by a pull, which any client can do with any
# log-in; nothing is transferred, since the layers are here. The image must be the one pushed.
registry_digest() {
    local before after digest
    if $dry_run; then
        attempt docker pull "$1"
        return
    fi
    before=$(docker image inspect --format '{{.Id}}' "$1")
    if ! attempt docker pull "${build_options[@]}" "$1"; then
        fail "digest of ${1##*/}" "docker pull failed: $(tail -n 1 "$work/log")" \
            "the registry to answer with what was just pushed" "docker pull $1"
    fi
    after=$(docker image inspect --format '{{.Id}}' "$1")
    digest=$(sed -n 's/^Digest: \(sha256:[0-9a-f]\{64\}\)$/\1/p' "$work/log")
    if [ -z "$digest" ] || [ "$before" != "$after" ]; then
        fail "digest of ${1##*/}" "the registry holds another image under this tag than was pushed" \
            "nobody else to push this tag meanwhile" "run this again"
    fi
    echo "$digest"
}
