#!/usr/bin/env bash
# Stops the dev stack: exactly the processes that hack/dev-setup.sh started for the folder .streamhouse/dev or DEV_DIR. Keeps the data;
# --purge deletes it. Does nothing if the stack does not run. --docker stops the stack of hack/dev-setup.sh --docker.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
export CALLED_FROM
exec cargo run --quiet --package xtask -- dev-stack down "$@"
