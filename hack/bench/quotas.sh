#!/usr/bin/env bash
# Measures what quotas of clients allow: a real agent, and clients of both protocols that do as much as they can for a minute, with
# producer_byte_rate and consumer_byte_rate of 1 MB/s. Prints the ratios of docs/benchmarks.md and fails if one is off by more than 10 %.
#
#   hack/bench/quotas.sh [SECONDS]     how long each client runs (60)
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need test-servers kafka kafka-python
say "building"
build_programs --bin streamhouse-agent --bin streamhouse
exec "$STREAMHOUSE_PYTHON" hack/bench/quotas.py "${CARGO_TARGET_DIR:-target}/release" "$STREAMHOUSE_KAFKA" "${1:-60}"
