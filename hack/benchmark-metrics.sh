#!/usr/bin/env bash
# Measures what metrics cost: nanoseconds an update, memory of a component, CPU at 200,000 records/s with and without them in one run.
# Prints what docs/benchmarks.md says of them. All traffic stays on loopback; it ends by itself.
#
#   hack/benchmark-metrics.sh [PAIRS [SECONDS]]    how many pairs of runs (8), and how long each takes (10)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
say "building, with and without metrics"
build_programs
# In a folder of its own: the same name, without the feature.
TARGET=${CARGO_TARGET_DIR:-target}
cargo build --release -p streamhouse-cli --no-default-features --bin streamhouse --target-dir "$TARGET/no-metrics"
say "single updates"
# Of the workspace, so that nothing is built with other features than the programs.
cargo bench --workspace --bench metrics -- --noplot
note "$(nproc) cores, $(uname -sr)"
forget_settings
exec "$TARGET/release/examples/metrics_overhead" "$TARGET/no-metrics/release/streamhouse" "$TARGET/criterion" "$@"
