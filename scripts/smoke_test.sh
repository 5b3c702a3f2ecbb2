#!/usr/bin/env bash
# Build one image and test it: --help, a run on a tiny generated data set, and the files that
# component.yaml promises. The image, the containers and the files are removed at the end; the
# engine's build cache is kept.
#   scripts/smoke_test.sh COMPONENT [options]
# COMPONENT is a folder's name under lib/components, or serving: that one is started, then called
# for its health, a prediction, and a prediction that it must refuse.
#
#   --set NAME=VALUE     value of an input of component.yaml that has no default (repeatable)
#   --seconds N          time limit of one run (default 120)
#   --dry-run            only print what would be done; needs no engine
#
# Components run without network, except one that reads a `table`: it gets a small BigQuery on
# loopback. BASE_IMAGE=... in the environment replaces python:3.11-slim.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/images.sh
. scripts/images.sh

name='' seconds=120 settings=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --set)
            [[ ${2:-} == *=* ]] || misused "--set needs NAME=VALUE"
            settings+=(--set "$2"); shift 2 ;;
        --seconds) seconds=$(value_of "$@"); shift 2 ;;
        --dry-run) dry_run=true; shift ;;
        -*) misused "unknown option $1" ;;
        *) [ -z "$name" ] || misused "one component at a time"; name=$1; shift ;;
    esac
done
[ -n "$name" ] || misused "which component? $(components | paste -s -d " " -)"
require_component "$name"
[[ $seconds =~ ^[0-9]+$ ]] || misused "--seconds $seconds is not a number"

# Interface files: component.yaml, then others of the same program (eval's approve.yaml), whose
# inputs include what the first one wrote.
interfaces=()
for file in "$(folder_of "$name")/component.yaml" "$(folder_of "$name")"/*.yaml; do
    if [ "$file" != "${interfaces[0]:-}" ] && grep -qs 'src/main.py' "$file"; then
        interfaces+=("$file")
    fi
done

image=churn-smoke/$name:$$ container='' table_server=''
if $dry_run; then
    echo "smoke $name: dry run, nothing is done"
    work=/tmp
    build_image "$name" smoke smoke "$image"
    attempt docker run --rm "$image" --help
    for file in "${interfaces[@]+"${interfaces[@]}"}"; do
        echo "  would run: the container with the arguments of $file, on a tiny data set"
        echo "  would check: the files that its outputs promise"
    done
    [ "$name" != serving ] ||
        echo "  would call: /health, /predict, /predict with a malformed instance"
    attempt docker image rm --force --no-prune "$image"
    exit 0
fi

clean_up() {
    [ -z "$container" ] || docker rm --force "$container" >/dev/null 2>&1 || true
    # The layers below are kept, as the cache of the next build.
    docker image rm --force --no-prune "$image" >/dev/null 2>&1 || true
    if [ -n "$table_server" ]; then
        kill "$table_server" 2>/dev/null || true
        wait "$table_server" 2>/dev/null || true
    fi
    rm -rf "$work"
}

# wrong STAGE CAUSE NEEDED
wrong() {
    fail "smoke test of $name: $1" "$2" "$3" "scripts/smoke_test.sh $name"
}

build() {
    build_image "$name" smoke smoke "$image"
    echo "smoke $name: built in $((SECONDS - began)) s, $(megabytes "$image") MB"
    local user
    user=$(docker image inspect --format '{{.Config.User}}' "$image")
    case $user in
        '' | 0 | 0:* | root | root:*)
            wrong build "the image runs as root" "USER with a number in the Dockerfile" ;;
    esac
}

ask_for_help() {
    if ! attempt docker run --rm --network none "$image" --help; then
        wrong --help "--help ended with an error:
$(last_lines)" "a program that prints its help and exits with status 0"
    fi
    if attempt docker run --rm --network none "$image" --no_such_option; then
        wrong "bad command line" "an unknown option was accepted: status 0" "a status other than 0"
    fi
    echo "smoke $name: --help works, an unknown option is refused"
}

# Start a BigQuery for a container that reads a table; set `network` to the options it needs.
start_table_server() {
    local variable
    "$python" -m scripts.smoke table "$work/table" >"$work/table.log" 2>&1 &
    table_server=$!
    for _ in $(seq 300); do
        [ ! -f "$work/table" ] || break
        kill -0 "$table_server" 2>/dev/null || break
        sleep 0.2
    done
    if ! [ -f "$work/table" ]; then
        wrong "its BigQuery" "it did not start: $(tail -n 1 "$work/table.log")" \
            "the project's environment"
    fi
    # The container must reach the loopback of this machine; Docker Desktop has a name for it.
    network=(--network host)
    if [[ $(docker info --format '{{.OperatingSystem}}') == *Desktop* ]]; then
        sed -i.bak 's/127\.0\.0\.1/host.docker.internal/' "$work/table"
        network=()
    fi
    while read -r variable; do
        network+=(--env "$variable")
    done <"$work/table"
}

# start_container DOCKER-OPTIONS... -- ARGUMENTS...: with copies of the inputs, because a mounted
# folder needs the same user inside and outside, and an engine on this machine.
start_container() {
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1"); shift
    done
    shift
    container=$(docker create "${options[@]}" "$image" "$@")
    attempt docker cp "$work/smoke" "$container:/tmp/" ||
        wrong run "$(last_lines 3)" "a folder /tmp in the image"
    attempt docker start "$container" ||
        wrong run "it did not start: $(last_lines 3)" "an ENTRYPOINT that exists"
}

running() {
    [ "$(docker inspect --format '{{.State.Running}}' "$container")" = true ]
}

# run_interface FILE NETWORK-OPTIONS...
run_interface() {
    local interface=$1 arguments=() argument status deadline=$((SECONDS + seconds))
    shift
    if ! "$python" -m scripts.smoke arguments "$interface" "${settings[@]+"${settings[@]}"}" \
        >"$work/arguments" 2>"$work/log"; then
        wrong "command line" "$(tail -n 1 "$work/log")" "an interface file that says how to run it"
    fi
    while IFS= read -r argument; do
        arguments+=("$argument")
    done <"$work/arguments"
    start_container "$@" -- "${arguments[@]}"
    while running; do
        [ $SECONDS -lt $deadline ] ||
            wrong run "still running after $seconds s" "a run that ends, or --seconds"
        sleep 0.2
    done
    status=$(docker inspect --format '{{.State.ExitCode}}' "$container")
    docker logs "$container" >"$work/log" 2>&1
    if [ "$status" != 0 ]; then
        wrong run "it ended with status $status:
$(last_lines 5)" "a run on a small data set that ends with status 0"
    fi
    # If the component wrote nothing there is no folder to copy: the check below reports that.
    rm -rf "$work/smoke-out"; mkdir "$work/smoke-out"
    docker cp "$container:/tmp/smoke-out" "$work/" >/dev/null 2>&1 || true
    docker rm "$container" >/dev/null
    container=''
    if ! "$python" -m scripts.smoke check "$interface" "$work/smoke-out" >"$work/log" 2>&1; then
        wrong outputs "$(tail -n 1 "$work/log")" "the outputs that $interface names"
    fi
    sed "s/^/smoke $name: /" "$work/log"
    cp -R "$work/smoke-out/." "$work/smoke/in/"
}

run_serving() {
    local address asking status=0
    start_container --publish 127.0.0.1::8080 --env AIP_STORAGE_URI=/tmp/smoke/in/model --
    address=$(docker port "$container" 8080 2>/dev/null | head -n 1) || true
    "$python" -m scripts.smoke serving "http://$address" --seconds "$seconds" \
        >"$work/answers" 2>&1 &
    asking=$!
    while kill -0 "$asking" 2>/dev/null && running; do
        sleep 0.2
    done
    if ! running; then
        kill "$asking" 2>/dev/null || true
        wait "$asking" 2>/dev/null || true
        attempt docker logs "$container" || true
        wrong run "the server ended:
$(last_lines 5)" "a server that keeps running"
    fi
    wait "$asking" || status=$?
    if [ "$status" != 0 ]; then
        attempt docker logs "$container" || true
        wrong answers "$(tail -n 1 "$work/answers")
$(last_lines 5)" "the answers that lib/serving/README.md describes"
    fi
    sed "s/^/smoke $name: /" "$work/answers"
    attempt docker stop "$container" || true
    docker rm "$container" >/dev/null
    container=''
}

work=$(mktemp -d "${TMPDIR:-/tmp}/churn-images.XXXXXX")
trap clean_up EXIT
trap 'exit 130' INT TERM
began=$SECONDS
require_python
require_engine "a running Docker engine"
build
ask_for_help

mkdir "$work/smoke"
model=()
if [ "$name" = serving ] ||
    sed '/^outputs:/,$d' "${interfaces[0]:-/dev/null}" | grep 'type: Model' >/dev/null; then
    model=(--model)
fi
if ! attempt "$python" -m scripts.smoke inputs "$work/smoke/in" "${model[@]+"${model[@]}"}"; then
    wrong "its inputs" "$(tail -n 1 "$work/log")" "the project's environment"
fi
chmod -R a+rX "$work/smoke"   # the container runs as another user
if [ "$name" = serving ]; then
    run_serving
else
    [ ${#interfaces[@]} != 0 ] || wrong "command line" "there is no component.yaml" "its interface"
    network=(--network none)
    ! grep -q 'name: table,' "${interfaces[0]}" || start_table_server
    for file in "${interfaces[@]}"; do
        run_interface "$file" "${network[@]+"${network[@]}"}"
    done
fi
echo "smoke $name: passed in $((SECONDS - began)) s"
