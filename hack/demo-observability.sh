#!/usr/bin/env bash
# What Prometheus sees of a cluster under load: starts the dev stack if it is not up (hack/dev-setup.sh) and an agent on it, lets
# `streamhouse bench e2e` write and read, and asks Prometheus until it has every target and series that is expected. Ends with 1 if
# one of them does not come within a minute. The agent and the load stop at the end, the stack stays up.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-dev.sh

[ $# = 0 ] || fail "hack/demo-observability.sh takes no arguments"

up_and_running
PROMETHEUS=http://127.0.0.1:$DEV_PROMETHEUS_PORT
DIR=$(mktemp -d)
LOAD=
clean_up() {
  local pid
  for pid in $LOAD ${AGENT:-}; do kill -KILL "$pid" 2>/dev/null || true; done
  rm -rf "$DIR"
}
trap clean_up EXIT

# query EXPRESSION: the series that it gives, one a line; fails if there are none.
query() {
  timeout 10 promtool query instant "$PROMETHEUS" "$1" >"$DIR/raw" 2>"$DIR/query.log" || return 1
  # promtool prints an empty line when there is no series.
  grep -F ' => ' "$DIR/raw" >"$DIR/answer"
}
shown() { sed 's/ @\[.*//; s/^/        /' "$DIR/answer"; }

# load_shows EXPRESSION: the same, as long as the load runs.
load_shows() {
  kill -0 "$LOAD" 2>/dev/null || { tail -n 20 "$DIR/load.log" >&2; fail "the load ended before Prometheus had seen all of it"; }
  query "$1"
}

# expect WHAT EXPRESSION
expect() {
  until_true "the series of $1 ($2)" "$DIR/query.log" load_shows "$2"
  note "$1"
  shown
}

say "starting an agent on PostgreSQL and MinIO, and a load of 2,000 records a second, written and read"
start_dev_agent "$DIR" "$BIN/streamhouse-agent"
BEGIN=$(date +%s)
"$BIN/streamhouse" bench e2e --topic dev-load --rate 2000 --duration 10m >"$DIR/load.log" 2>&1 </dev/null &
LOAD=$!

say "targets"
for job in prometheus node streamhouse-agents; do
  # Not what an earlier agent left: scraped since this one runs.
  expect "$job is up" "up{job=\"$job\"} == 1 and timestamp(up{job=\"$job\"}) > $BEGIN"
done
curl_here "$PROMETHEUS/api/v1/status/config" >"$DIR/config" || fail "Prometheus does not show its settings"
for job in streamhouse-producers streamhouse-consumers; do
  grep -q "job_name: $job" "$DIR/config" || fail "Prometheus has no job $job"
  # Whoever named targets of this job wants to know if one is down, too.
  if query "up{job=\"$job\"}"; then
    note "$job"
    shown
  else
    note "$job: no targets; name some in $DEV_DIR/prometheus/targets/${job#streamhouse-}.yml"
  fi
done
expect "Prometheus knows the Alertmanager" 'prometheus_notifications_alertmanagers_discovered == 1'

say "series"
AGENTS='job="streamhouse-agents"'
expect "the agent is ready" "streamhouse_agent_ready{$AGENTS} == 1"
expect "partitions it holds" "streamhouse_agent_active_partitions{$AGENTS} > 0"
expect "records it takes, a second" "sum by (job) (rate(streamhouse_agent_produced_records_total{$AGENTS}[30s])) > 0"
expect "bytes it flushes, a second" "sum by (job) (rate(streamhouse_agent_flush_bytes_total{$AGENTS}[30s])) > 0"
expect "requests to MinIO, a second" "sum by (job) (rate(streamhouse_agent_object_store_requests_total{$AGENTS}[30s])) > 0"
expect "gRPC requests by method, a second" "sum by (method) (rate(streamhouse_agent_grpc_requests_total{$AGENTS}[30s])) > 0"
expect "P99 of a write, in seconds" \
  "histogram_quantile(0.99, sum by (le) (rate(streamhouse_agent_write_latency_seconds_bucket{$AGENTS}[30s]))) > 0"
expect "this machine's CPUs that work" 'sum by (job) (rate(node_cpu_seconds_total{job="node",mode!="idle"}[30s])) > 0'

curl_here "$PROMETHEUS/api/v1/rules?type=alert" >"$DIR/rules" || fail "Prometheus does not show its rules"
rules=$(grep -o '"type":"alerting"' "$DIR/rules" | wc -l || true)
if [ "$rules" = 0 ]; then note "alert rules: none loaded yet"; else note "alert rules: $rules"; fi

say "stopping the load, draining the agent"
kill -TERM "$LOAD" 2>/dev/null || true
wait "$LOAD" 2>/dev/null || true
LOAD=
stop_agent "$DIR"
AGENT=
note "all as it should be; the stack stays up: Prometheus $PROMETHEUS; hack/dev-down.sh stops it"
