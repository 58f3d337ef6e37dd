#!/usr/bin/env bash
# Regenerates the documents in docs/reference, the definitions in crds, the chart's copies and the console's pictures from the code. The
# tests fail while one of them is not current.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
cargo xtask public-api --update
UPDATE_DOCS=1 cargo test --release -p streamhouse-core --lib
UPDATE_DOCS=1 cargo test --release -p streamhouse-cli --bin streamhouse
UPDATE_DOCS=1 hack/check-live.sh
UPDATE_DOCS=1 hack/check-console.sh
UPDATE_DOCS=1 cargo test --release -p streamhouse-operator --lib
hack/sync-chart.sh
note "see git diff docs crds charts"
