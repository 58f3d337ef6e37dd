#!/usr/bin/env bash
# The one test command: installs what the tests need, then checks and tests everything, as CI does.
# Run it from anywhere: hack/test.sh, or with --help for its options. What it does is in xtask: cargo xtask test.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
export STREAMHOUSE_CACHE=$CACHE
exec cargo run --quiet --package xtask -- test "$@"
