#!/usr/bin/env bash
# Holds the rules of docs/ARCHITECTURE.md that no compiler checks: cargo xtask structure. Takes seconds.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
exec cargo run --quiet --package xtask -- structure "$@"
