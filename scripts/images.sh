# shellcheck shell=bash
# Functions that the image scripts share, sourced from the repository's root. For bash 3.2 (macOS).

dry_run=false       # true: `attempt` prints instead of running
work=''             # a temporary folder; the script makes and removes it
build_options=()    # further options of docker build
python=.venv/bin/python
export PYTHONDONTWRITEBYTECODE=1
# With its default attestations buildx pushes an index, whose digest is not the image's.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1

# Requests to loopback do not go through a proxy.
no_proxy=${no_proxy:-${NO_PROXY:-}}
[ "$no_proxy" = '*' ] || no_proxy=${no_proxy:+$no_proxy,}127.0.0.1,localhost
NO_PROXY=$no_proxy
export no_proxy NO_PROXY

# fail STAGE CAUSE NEEDED [COMMAND]: print what went wrong and what is needed; exit status 1.
fail() {
    {
        echo "stage:     $1"
        echo "cause:     $2"
        echo "needed:    $3"
        [ -z "${4:-}" ] || echo "command:   $4"
    } >&2
    exit 1
}

# misused MESSAGE: a bad command line; exit status 2.
misused() {
    echo "$(basename "$0"): $1 (see --help)" >&2
    exit 2
}

# The comment at the top of the script is its help.
show_help() {
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
}

# use_config FILE: read it instead of config.yaml. A relative path is relative to the folder where
# the script was called: it has changed to the repository's root since.
use_config() {
    case $1 in
        /*) CHURN_DEMO_CONFIG=$1 ;;
        *) CHURN_DEMO_CONFIG=$OLDPWD/$1 ;;
    esac
    export CHURN_DEMO_CONFIG
}

# value_of OPTION [VALUE]: print the value, or fail if there is none.
value_of() {
    if [ $# -lt 2 ] || [ -z "$2" ]; then
        misused "$1 needs a value"
    fi
    echo "$2"
}

# attempt COMMAND...: run it, output to $work/log; in a dry run only print it.
attempt() {
    if $dry_run; then
        printf '  would run:'
        printf ' %q' "$@"
        echo
    else
        "$@" >"$work/log" 2>&1
    fi
}

# last_lines [N]: the end of what `attempt` logged.
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
        misused "'$1' is not a component; the components are $(components | paste -s -d " " -)"
    fi
}

# changed_since REV NAME: true if the folder's content differs from its content in that commit.
# New files count; ignored files do not, nor does a change that was reverted since.
changed_since() {
    local folder status=0
    folder=$(folder_of "$2")
    if [[ $1 =~ ^0+$ ]]; then   # GitHub's name of the commit before the first one
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
            "a commit that git has; a shallow clone lacks the older ones" "git fetch --unshallow"
    fi
}

# source_tag NAME ALLOW_DIRTY: the commit's first 12 digits, with -dirty if the folder or scripts/
# have uncommitted changes, which is an error unless ALLOW_DIRTY=true.
source_tag() {
    local sha dirty
    if ! sha=$(git rev-parse --short=12 --verify --quiet HEAD); then
        fail "tag of $1" "this is not a git clone with a commit" \
            "a commit: it is the tag of the image" \
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

# require_engine NEEDED: fail with this need if no engine answers.
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

# image_repository TARGET ENV REGISTRY: HOST/PATH of the images: REGISTRY, or config.yaml's.
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
            fail registry "--target local has no registry: it runs the folders of the images" \
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

# explain_push REFERENCE: fail with what is needed after the registry's refusal in $work/log.
explain_push() {
    local repository=${1%/*} host=${1%%/*} stage="push of ${1##*/}" cause
    local login="docker to be logged in" login_command="docker login $host"
    local missing="a repository $repository" right="the right to push to $repository" create=''
    cause="$host refused: $(tail -n 1 "$work/log")"
    if is_google "$1"; then
        local region=${host%-docker.pkg.dev} project=${repository#*/} path
        path=${project#*/}; project=${project%%/*}
        login="docker to log in with your Google account"
        login_command="gcloud auth configure-docker $host"
        missing="the repository $path in project $project, $region"
        right="roles/artifactregistry.writer on the repository $path, and that it exists"
        create="gcloud artifacts repositories create $path --repository-format docker"
        create+=" --location $region --project $project"
    fi
    case $(cat "$work/log") in
        *[Uu]nauthenticated* | *"no basic auth"* | *unauthorized* | *"uthentication required"*)
            fail "$stage" "$cause" "$login" "$login_command" ;;
        *"name unknown"* | *NAME_UNKNOWN* | *"not found"*)
            fail "$stage" "$cause" "$missing" "$create" ;;
        *denied* | *[Ff]orbidden*)
            fail "$stage" "$cause" "$right" "$create" ;;
        *) fail "$stage" "docker push failed:
$(last_lines 5)" "a registry that answers at $host" "docker push $1" ;;
    esac
}

push_image() {
    if ! attempt docker push "$1"; then
        explain_push "$1"
    fi
}

# registry_digest REFERENCE: the digest in the registry, read by a pull, which works with every
# registry and log-in; the layers are here already. The image must be the one just pushed.
registry_digest() {
    local before after digest
    if $dry_run; then
        attempt docker pull "$1"
        return
    fi
    before=$(docker image inspect --format '{{.Id}}' "$1")
    if ! attempt docker pull "${build_options[@]}" "$1"; then
        fail "digest of ${1##*/}" "docker pull failed: $(tail -n 1 "$work/log")" \
            "the registry to return the image that was just pushed" "docker pull $1"
    fi
    after=$(docker image inspect --format '{{.Id}}' "$1")
    digest=$(sed -n 's/^Digest: \(sha256:[0-9a-f]\{64\}\)$/\1/p' "$work/log")
    if [ -z "$digest" ] || [ "$before" != "$after" ]; then
        fail "digest of ${1##*/}" "the registry has another image under this tag" \
            "no other push of this tag at the same time" "run this again"
    fi
    echo "$digest"
}
