#!/usr/bin/env bash
# Checks the files for Prometheus, Alertmanager and Grafana: alert rules and their tests, runbooks, the settings of the dev stack,
# routing examples, the dashboard, the values of kube-prometheus-stack. Starts no server and needs no port. Takes half a minute.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# = 0 ] || fail "hack/check-observability.sh takes no arguments"

need dev-servers dashboard-python
DIR=$(mktemp -d)
trap 'rm -rf "$DIR"' EXIT
failed=0
# check WHAT COMMAND...: runs a check and shows its output only if it fails.
check() {
  local what=$1
  shift
  if "$@" >"$DIR/out" 2>&1 </dev/null; then
    note "$what: ok"
  else
    cat "$DIR/out" >&2
    note "$what: FAILED"
    failed=$((failed + 1))
  fi
}

say "alert rules"
check "promtool reads the rules" promtool check rules config/prometheus/streamhouse.rules.yml
check "promtool reads the dev stack's settings" promtool check config config/prometheus/prometheus.yml
check "rules, tests and runbooks agree" "$PYTHON" tests/observability/check_rules.py "$DIR/queries.yml"
check "queries of the dashboard, the runbooks and the operator are PromQL" promtool check rules --lint=none "$DIR/queries.yml"
# In parallel, because each test waits most of the time.
check "the tests of the rules" xargs -a <(printf '%s\n' config/prometheus/tests/*.yml) -P "$(nproc)" -n 1 promtool test rules

say "routing"
# routes FILE RECEIVER LABEL...: checks that alerts with these labels go to this receiver.
routes() { [ "$(amtool config routes test --config.file="$1" "${@:3}" 2>/dev/null)" = "$2" ]; }
for file in config/prometheus/alertmanager.yml config/alertmanager/examples/*.yml; do
  check "amtool reads $file" amtool check-config "$file"
done
for name in slack pagerduty; do
  file=config/alertmanager/examples/$name.yml
  check "$name: what is critical" routes "$file" "$name-critical" severity=critical alertname=AgentDown
  check "$name: warnings" routes "$file" "$name-warnings" severity=warning alertname=HighConsumerLag
  check "$name: what is for the dashboard only" routes "$file" nobody severity=info alertname=OperatorDriftRecurring
done

say "dashboard"
check "the script writes this dashboard" "$PYTHON" grafana/generate.py --check
check "Grafana knows its fields, and the conventions hold" "$PYTHON" tests/observability/check_dashboard.py

say "the dev stack in containers"
check "the compose file has the services, on the ports that users rely on" "$PYTHON" tests/observability/check_compose.py

say "kube-prometheus-stack"
check "documents and scripts name values of that chart, and its defaults" "$PYTHON" tests/observability/check_stack_values.py

[ "$failed" = 0 ] || fail "$failed checks failed"
