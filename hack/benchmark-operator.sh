#!/usr/bin/env bash
# Measures the operator with many resources on a real API server and a real PostgreSQL, all on this machine and without nodes, and prints
# the table of docs/benchmarks.md. Takes about ten minutes.
#
#   hack/benchmark-operator.sh [CLUSTERS [TOPICS [SECONDS]]]    SECONDS is the time at rest (200 5000 120)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need test-servers kubernetes-api kubernetes-tools
say "building"
cargo build --release -p streamhouse-operator --bin streamhouse-operator --example reconcile_benchmark
note "$(nproc) cores, $(uname -sr)"
exec "${CARGO_TARGET_DIR:-target}/release/examples/reconcile_benchmark" "$@"
