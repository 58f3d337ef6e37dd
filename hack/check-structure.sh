#!/usr/bin/env bash
# Checks the rules of docs/ARCHITECTURE.md that the compiler does not: cargo xtask structure. Takes seconds.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
exec cargo run --quiet --package xtask -- structure "$@"
