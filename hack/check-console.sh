#!/usr/bin/env bash
# Tests the agent's web console in a real headless Chromium, on an agent with data produced by the command line. Takes two minutes.
# UPDATE_DOCS=1 rewrites the pictures in docs/images.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# = 0 ] || fail "hack/check-console.sh takes no arguments"

need browser

build_programs --bin streamhouse-agent --bin streamhouse
forget_settings
say "the console in Chromium"
PYTHONPATH=tests "$PYTHON" tests/console/check_console.py "${CARGO_TARGET_DIR:-target}/release"
