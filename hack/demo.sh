#!/usr/bin/env bash
# Demonstrates the whole pipeline on this machine: installs a compiler and Rust if they are missing, builds, and runs the demo with SQLite
# and a local folder. Needs no server, account or container. Passes its arguments to the demo.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
forget_settings
say "building the agent, the client and the demo (some minutes the first time)"
build_programs --bin streamhouse-agent --example phase_7_complete_demo
say "running the demo"
exec "${CARGO_TARGET_DIR:-target}/release/examples/phase_7_complete_demo" "$@"
