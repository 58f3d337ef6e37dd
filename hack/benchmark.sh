#!/usr/bin/env bash
# Measures one agent on a real PostgreSQL and a real MinIO, all on this machine, with half-compressible and random records, and prints the
# tables of docs/benchmarks.md.
#
#   hack/benchmark.sh [SECONDS]    duration of each run with a time limit, in seconds (15)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need test-servers minio
say "building"
cargo build --release --workspace --bins
cargo build --release -p streamhouse-tests --example benchmark
note "$(nproc) cores, $(uname -sr)"
exec "${CARGO_TARGET_DIR:-target}/release/examples/benchmark" "$@"
