#!/usr/bin/env bash
# Measures the cost of metrics: nanoseconds per update, memory per component, and CPU at 200,000 records/s with and without metrics in
# one run. Prints the figures of docs/benchmarks.md. All traffic stays on loopback; the script ends by itself.
#
#   hack/benchmark-metrics.sh [PAIRS [SECONDS]]    number of pairs of runs (8), seconds per run (10)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
say "building, with and without metrics"
build_programs
# In a separate folder, because this program has the same name, without the feature.
TARGET=${CARGO_TARGET_DIR:-target}
cargo build --release -p streamhouse-cli --no-default-features --bin streamhouse --target-dir "$TARGET/no-metrics"
say "single updates"
# For the whole workspace, so that dependencies have the features that the programs have.
cargo bench --workspace --bench metrics -- --noplot
note "$(nproc) cores, $(uname -sr)"
forget_settings
exec "$TARGET/release/examples/metrics_overhead" "$TARGET/no-metrics/release/streamhouse" "$TARGET/criterion" "$@"
