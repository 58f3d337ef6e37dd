#!/usr/bin/env bash
# Runs producers and consumers on the dev stack: starts the stack if it does not run (hack/dev-setup.sh) and an agent on its PostgreSQL
# and MinIO, runs the two end-to-end examples and the command line against the agent, and lists the objects in MinIO and the tables in
# PostgreSQL. Exits with 1 if a step fails. Stops the agent at the end and leaves the stack running.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
export CALLED_FROM
exec cargo run --quiet --package xtask -- demo e2e "$@"
