#!/usr/bin/env bash
# Writes the documents in docs/reference that are made from the code. The tests fail while they are not current.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
UPDATE_DOCS=1 cargo test --release -p streamhouse-core --lib
UPDATE_DOCS=1 cargo test --release -p streamhouse-client --bin streamhouse
UPDATE_DOCS=1 hack/check-live.sh
note "see git diff docs/reference"
