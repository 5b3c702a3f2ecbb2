#!/usr/bin/env bash
# Build and push the prediction container, lib/serving: build_push.sh serving.
#   scripts/build_serving_container.sh [options of build_push.sh; --help lists them]
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/build_push.sh" serving "$@"
