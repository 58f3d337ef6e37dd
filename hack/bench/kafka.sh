#!/usr/bin/env bash
# Compares one agent, on a real PostgreSQL and a real MinIO, with Apache Kafka: the same command lines of Kafka's own performance tools
# against both, in turns, all on this machine. Prints the table of docs/benchmarks.md with the ratios.
#
#   hack/bench/kafka.sh [ROUNDS [PERCENT [TITLE]]]    number of rounds (2), share of the records of each load in percent (100), and a
#                                                     part of a load's title, to run only such loads
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need test-servers minio kafka
say "building"
build_programs --bin streamhouse-agent --example kafka_benchmark
note "$(nproc) cores, $(uname -sr)"
exec "${CARGO_TARGET_DIR:-target}/release/examples/kafka_benchmark" "$@"
