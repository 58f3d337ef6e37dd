#!/usr/bin/env bash
# Demonstrates metrics and alerts under load. Starts the dev stack if it does not run (hack/dev-setup.sh), an agent, and a load that
# produces and consumes; shows targets and series. Then pauses the consumer and sends records that are refused, until the alerts go from
# pending to firing in Prometheus and arrive at Alertmanager and at a webhook; then ends both and waits until the alerts are resolved.
# The alerts are those of config/prometheus with shorter times. Exits with 1 if a step takes longer than a minute. Stops agent, load and
# webhook at the end and leaves the stack running.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-dev.sh

[ $# = 0 ] || fail "hack/demo-observability.sh takes no arguments"

up_and_running
need python
PROMETHEUS=http://127.0.0.1:$DEV_PROMETHEUS_PORT
ALERTMANAGER=http://127.0.0.1:$DEV_ALERTMANAGER_PORT
DIR=$(mktemp -d)
SETTINGS=$DEV_DIR/prometheus
LOAD='' WEBHOOK=''
reload_prometheus() { kill -HUP "$(service_pid prometheus)"; }
clean_up() {
  local pid
  for pid in $LOAD $WEBHOOK ${AGENT:-}; do
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$DIR" "$SETTINGS"/targets/{producers,consumers}-demo.yml "$SETTINGS/demo/alerts.yml"
  reload_prometheus 2>/dev/null || true
}
trap clean_up EXIT

# query EXPRESSION: prints the series of the result, one per line; fails if there are none.
query() {
  timeout 10 promtool query instant "$PROMETHEUS" "$1" >"$DIR/raw" 2>"$DIR/query.log" || return 1
  # promtool prints an empty line when there is no series.
  grep -F ' => ' "$DIR/raw" >"$DIR/answer"
}
shown() { sed 's/ @\[.*//; s/^/        /' "$DIR/answer"; }

# load_shows EXPRESSION: like query; fails at once if the load has ended.
load_shows() {
  kill -0 "$LOAD" 2>/dev/null || { tail -n 20 "$DIR/load.log" >&2; fail "the load ended before Prometheus had seen all of it"; }
  query "$1"
}

# expect WHAT EXPRESSION: waits until the expression has a result.
expect() {
  until_true "the series of $1 ($2)" "$DIR/query.log" load_shows "$2"
  note "$1"
  shown
}

# The alerts of consumers and producers, with shorter times and a label by which Alertmanager routes them to the webhook.
demo_rules() {
  sed -n '/^groups:/,/name: streamhouse-agent$/p' config/prometheus/streamhouse.rules.yml | sed '$d' |
    sed -E -e 's/name: streamhouse-/name: demo-/' -e 's/^( *)for: .*/\1for: 10s/' -e 's/\[2m\]/[20s]/' \
      -e 's/^( *)(severity: .*)/\1\2\n\1demo: "true"/'
}

start_load() {
  mkfifo "$DIR/orders"
  "$BIN/examples/observed_load" "127.0.0.1:$DEV_AGENT_GRPC_PORT" demo-observed demo-readers 2000 \
    <"$DIR/orders" >"$DIR/load.out" 2>"$DIR/load.log" &
  LOAD=$!
  exec 3>"$DIR/orders"
  until_true "the start of the load" "$DIR/load.log" grep -q '^serving ' "$DIR/load.out"
  local producer consumer
  read -r producer consumer < <(sed -n 's/^serving producer=\(.*\) consumer=\(.*\)/\1 \2/p' "$DIR/load.out")
  echo "- targets: [\"$producer\"]" >"$SETTINGS/targets/producers-demo.yml"
  echo "- targets: [\"$consumer\"]" >"$SETTINGS/targets/consumers-demo.yml"
  echo send >&3
}

start_webhook() {
  need_free_port DEV_WEBHOOK_PORT "the webhook's receiver"
  python3 tests/observability/webhook.py "$DEV_WEBHOOK_PORT" >"$DIR/webhook.out" 2>"$DIR/webhook.log" 3>&- </dev/null &
  WEBHOOK=$!
  until_true "the start of the webhook's receiver" "$DIR/webhook.log" grep -q '^listening' "$DIR/webhook.out"
}

alertmanager_has() {
  curl_here --get --data-urlencode 'filter=demo="true"' "$ALERTMANAGER/api/v2/alerts" >"$DIR/alerts" && grep -q "\"alertname\":\"$1\"" "$DIR/alerts"
}

# follow ALERT: waits until the alert is pending, is firing, is at Alertmanager, and has reached the webhook.
follow() {
  local state
  for state in pending firing; do expect "$1 is $state" "ALERTS{alertname=\"$1\",alertstate=\"$state\",demo=\"true\"}"; done
  until_true "the arrival of $1 at Alertmanager" "$DIR/alerts" alertmanager_has "$1"
  note "Alertmanager has it"
  heard firing "$1"
}

# heard STATUS ALERT: whether the webhook has received the alert with this status.
heard() {
  until_true "$1 $2 at the webhook" "$DIR/webhook.log" grep -q "^$1 $2 " "$DIR/webhook.out"
  note "the webhook was told: $(grep "^$1 $2 " "$DIR/webhook.out" | tail -n 1)"
}

say "starting an agent on PostgreSQL and MinIO, and a load of 2,000 records a second, written and read"
demo_rules >"$SETTINGS/demo/alerts.yml"
quietly promtool check rules "$SETTINGS/demo/alerts.yml" || fail "the demo's rules are wrong"
reload_prometheus
start_dev_agent "$DIR" "$BIN/streamhouse-agent"
BEGIN=$(date +%s)
start_load
start_webhook

say "targets"
for job in prometheus node streamhouse-agents streamhouse-producers streamhouse-consumers; do
  # Only samples of this agent, not those that an earlier one left.
  expect "$job is up" "up{job=\"$job\"} == 1 and timestamp(up{job=\"$job\"}) > $BEGIN"
done
expect "Prometheus knows the Alertmanager" 'prometheus_notifications_alertmanagers_discovered == 1'
curl_here "$PROMETHEUS/api/v1/rules?type=alert" >"$DIR/rules" || fail "Prometheus does not show its rules"
rules=$(grep -o '"type":"alerting"' "$DIR/rules" | wc -l || true)
[ "$rules" -gt 17 ] || fail "Prometheus has loaded $rules alert rules only"
note "alert rules: $rules"

say "series"
AGENTS='job="streamhouse-agents"'
expect "the agent is ready" "streamhouse_agent_ready{$AGENTS} == 1"
expect "partitions it holds" "streamhouse_agent_active_partitions{$AGENTS} > 0"
expect "records it takes, a second" "sum by (job) (rate(streamhouse_agent_produced_records_total{$AGENTS}[30s])) > 0"
expect "bytes it flushes, a second" "sum by (job) (rate(streamhouse_agent_flush_bytes_total{$AGENTS}[30s])) > 0"
expect "requests to MinIO, a second" "sum by (operation) (rate(streamhouse_agent_object_store_requests_total{$AGENTS}[30s])) > 0"
expect "gRPC requests by method, a second" "sum by (method) (rate(streamhouse_agent_grpc_requests_total{$AGENTS}[30s])) > 0"
expect "P99 of a write, in seconds" \
  "histogram_quantile(0.99, sum by (le) (rate(streamhouse_agent_write_latency_seconds_bucket{$AGENTS}[30s]))) > 0"
expect "P99 from send to acknowledgement, in seconds" \
  'histogram_quantile(0.99, sum by (topic, le) (rate(streamhouse_producer_send_duration_seconds_bucket[30s]))) > 0'
expect "records acknowledged to the producer, a second" 'sum by (topic) (rate(streamhouse_producer_records_sent_total[30s])) > 0'
expect "records read, a second" 'sum by (group, topic) (rate(streamhouse_consumer_records_consumed_total[30s])) > 0'
expect "this machine's CPUs that work" 'sum by (job) (rate(node_cpu_seconds_total{job="node",mode!="idle"}[30s])) > 0'

say "a lag: the consumer stands still"
echo hold >&3
expect "the lag, in records" 'sum by (group, topic) (streamhouse_consumer_lag_records) > 5000'
follow HighConsumerLag

say "an error burst: 100 records a second that the agent must refuse"
echo fail >&3
follow HighProducerErrorRate
expect "errors of the agent by code, a second" "sum by (code) (rate(streamhouse_agent_grpc_errors_total{$AGENTS}[30s])) > 0"

say "all is put right: the alerts are resolved"
echo heal >&3
echo read >&3
heard resolved HighConsumerLag
heard resolved HighProducerErrorRate

say "stopping the load, draining the agent"
echo finish >&3
until_true "the end of the load" "$DIR/load.log" grep -q '^{' "$DIR/load.out"
note "the load counted $(grep '^{' "$DIR/load.out")"
exec 3>&-
wait "$LOAD" || { tail -n 20 "$DIR/load.log" >&2; fail "the load ended with an error"; }
LOAD=''
stop_agent "$DIR"
AGENT=''
note "all as it should be; the stack stays up: Prometheus $PROMETHEUS; hack/dev-down.sh stops it"
