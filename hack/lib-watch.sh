# shellcheck shell=bash
# A real Prometheus that the real Prometheus Operator sets up, for hack/kind-test.sh, which sources it. Both run as programs of this
# machine beside the cluster: routes lead to its pods.

# A Prometheus as the Prometheus Operator wants it, which asks the API server from outside of pods.
a_prometheus() {
  cat <<YAML
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {name: watch, namespace: $OPERATOR_NAMESPACE}
spec:
  version: v$(prometheus --version 2>&1 | sed -nE '1s/^prometheus, version ([0-9.]+).*/\1/p')
  replicas: 0
  scrapeInterval: 5s
  evaluationInterval: 5s
  serviceMonitorSelector: {matchLabels: {release: watch}}
  serviceMonitorNamespaceSelector: {}
  ruleSelector: {matchLabels: {release: watch}}
  ruleNamespaceSelector: {}
  apiserverConfig:
    host: $API_SERVER
    tlsConfig: {caFile: $WATCH/ca.crt, certFile: $WATCH/client.crt, keyFile: $WATCH/client.key}
YAML
}

# Whether the Prometheus Operator has made settings of both monitors and of the rules; they are in the folder $WATCH then.
settings_are_made() {
  local monitors
  kubectl --namespace "$OPERATOR_NAMESPACE" get secret prometheus-watch -o 'jsonpath={.data.prometheus\.yaml\.gz}' 2>/dev/null |
    base64 -d | gunzip 2>/dev/null >"$WATCH/packed.yml" || return 1
  # The names that a pod of Prometheus fills in itself.
  sed -e "s|/etc/prometheus/rules/prometheus-watch-rulefiles-0|$WATCH/rules|" -e 's/\$(SHARD)/0/; s/\$(POD_NAME)/watch-0/' \
    "$WATCH/packed.yml" >"$WATCH/generated.yml"
  monitors=$(grep -cE '^ *-? *job_name: serviceMonitor/' "$WATCH/generated.yml") || return 1
  kubectl --namespace "$OPERATOR_NAMESPACE" get configmap prometheus-watch-rulefiles-0 -o json 2>/dev/null |
    python3 -c 'import json, sys; [open(f"{sys.argv[1]}/{name}", "w").write(text) for name, text in json.load(sys.stdin)["data"].items()]' \
      "$WATCH/rules" || return 1
  [ "$monitors $(find "$WATCH/rules" -type f | wc -l)" = "2 2" ]
}

# Writes the files of who may ask the API server. Sets API_SERVER.
write_credentials() {
  local config
  config=$(kubectl config view --raw --minify --output json)
  API_SERVER=$(from_json '["clusters"][0]["cluster"]["server"]' <<<"$config")
  from_json '["clusters"][0]["cluster"]["certificate-authority-data"]' <<<"$config" | base64 -d >"$WATCH/ca.crt"
  from_json '["users"][0]["user"]["client-certificate-data"]' <<<"$config" | base64 -d >"$WATCH/client.crt"
  from_json '["users"][0]["user"]["client-key-data"]' <<<"$config" | base64 -d >"$WATCH/client.key"
}

# Routes from here to the pods of each node.
route_to_pods() {
  local pods address
  while read -r pods address; do ip route replace "$pods" via "$address"; done < <(kubectl get nodes --output \
    'jsonpath={range .items[*]}{.spec.podCIDR} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}')
}

# watch_service NAME COMMAND...: in the background, with a log of its own, until the lab ends.
watch_service() {
  local name=$1
  shift
  "$@" >"$WATCH/$name.log" 2>&1 </dev/null &
}

# Prints the ends of the logs of all that was started.
watch_logs() {
  local file
  for file in "${WATCH:-/nonexistent}"/*.log; do
    [ -s "$file" ] || continue
    say "the end of $file"
    tail -n 15 "$file" | cut -c1-240
  done
}

budget_is() { [ "$(in_sample get poddisruptionbudget "$CLUSTER-agent" -o 'jsonpath={.spec.maxUnavailable}')" = "$1" ]; }

# The real Prometheus Operator makes settings of the monitors and rules that our chart and our operator have made; a real Prometheus
# takes them, with the targets that its own package finds.
watched() {
  local before
  WATCH=$WORK/prometheus
  mkdir -p "$WATCH/rules"
  write_credentials
  route_to_pods
  before=$(uids)
  in_sample patch streamhousecluster "$CLUSTER" --type merge --patch '{"spec": {"monitoring": {
    "serviceMonitor": {"enabled": true, "interval": "5s", "labels": {"release": "watch"}},
    "prometheusRule": {"enabled": true, "labels": {"release": "watch"}, "for": {"AgentDown": "3m"}},
    "dashboards": {"enabled": true}}}}' >/dev/null
  eventually 60 "the cluster's being ready" settled "$1"
  in_sample patch poddisruptionbudget "$CLUSTER-agent" --type merge --patch '{"spec": {"maxUnavailable": 2}}' >/dev/null
  eventually 60 "the undoing of a change by hand" budget_is 1
  watch_service prometheus-operator env -u KUBECONFIG "$PROMETHEUS_OPERATOR_FOLDER/operator" --apiserver="$API_SERVER" \
    --ca-file="$WATCH/ca.crt" --cert-file="$WATCH/client.crt" --key-file="$WATCH/client.key" --web.listen-address=127.0.0.1:9091
  a_prometheus | kubectl apply --server-side -f - >/dev/null
  eventually 60 "settings of Prometheus of two monitors and two files of rules" settings_are_made
  grep -q 'for: 3m' "$WATCH"/rules/*"$CLUSTER-alerts"* || fail "the cluster's own time of an alert is not in its rules"
  watch_service discovery env -u KUBECONFIG "$KUBERNETES_DISCOVERY_FOLDER/discovery" "$WATCH/generated.yml" "$WATCH"
  eventually 30 "settings of Prometheus with files of targets" test -e "$WATCH/prometheus.yml"
  watch_service prometheus prometheus --config.file="$WATCH/prometheus.yml" --storage.tsdb.path="$WATCH/data" --web.listen-address=127.0.0.1:9090
  env PYTHONPATH=tests python3 -B tests/observability/check_cluster.py http://127.0.0.1:9090 "$CLUSTER" "$SAMPLE_NAMESPACE" "$1" \
    "$OPERATOR_NAMESPACE" 4 || fail "Prometheus does not see the cluster as it should"
  [ "$(uids)" = "$before" ] || fail "being watched restarted agents"
}
