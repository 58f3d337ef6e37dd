#!/usr/bin/env bash
# Shows the whole pipeline on this machine, from nothing: installs a compiler and Rust if they are missing, builds, and runs the
# demo on the embedded default (SQLite and a local folder). No server, no account, no container. Arguments go to the demo.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
forget_settings
say "building the agent, the client and the demo (some minutes the first time)"
build_programs --bin streamhouse-agent --example phase_7_complete_demo
say "running the demo"
exec "${CARGO_TARGET_DIR:-target}/release/examples/phase_7_complete_demo" "$@"
