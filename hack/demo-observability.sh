#!/usr/bin/env bash
# Demonstrates metrics and alerts under load. Starts the dev stack if it does not run (hack/dev-setup.sh), an agent, and a load that
# produces and consumes; shows targets and series. Then pauses the consumer and sends records that are refused, until the alerts go from
# pending to firing in Prometheus and arrive at Alertmanager and at a webhook; then ends both and waits until the alerts are resolved.
# The alerts are those of config/prometheus with shorter times. Exits with 1 if a step takes longer than a minute. Stops agent, load and
# webhook at the end and leaves the stack running.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
export CALLED_FROM
exec cargo run --quiet --package xtask -- demo observability "$@"
