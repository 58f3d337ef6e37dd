#!/usr/bin/env bash
# The test command: installs what the tests need, then runs every check and test, as CI does. --help prints the options. Implemented in
# xtask: cargo xtask test.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
export STREAMHOUSE_CACHE=$CACHE
exec cargo run --quiet --package xtask -- test "$@"
