#!/usr/bin/env bash
# Measures one agent on a real PostgreSQL and a real MinIO, all on this machine, and prints what docs/benchmarks.md is made of.
#
#   hack/benchmark.sh [SECONDS]    how long each paced run takes (15)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
need_test_tools
need_minio
say "building"
cargo build --release --workspace --bins
cargo build --release -p streamhouse-tests --example benchmark
note "$(nproc) cores, $(uname -sr)"
exec "${CARGO_TARGET_DIR:-target}/release/examples/benchmark" "$@"
