#!/usr/bin/env bash
# Checks every query of the dashboard and of docs/observability.md, and every alert rule, on a real run: an agent, a producer and a
# consumer that Prometheus scrapes, and Kafka clients, on free ports. Compares the answers with the run's own counts. UPDATE_DOCS=1 rewrites
# docs/reference/metrics.md.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# = 0 ] || fail "hack/check-live.sh takes no arguments"

need dev-servers python kafka-python
# It is a setting of the tests, not of a cluster.
KAFKA_PYTHON=$STREAMHOUSE_PYTHON

build_programs --bin streamhouse-agent --example observed_load
forget_settings
say "dashboard and alert rules on a real run"
PYTHONPATH=tests python3 tests/observability/check_live.py "${CARGO_TARGET_DIR:-target}/release" "$KAFKA_PYTHON"
