#!/usr/bin/env bash
# The proof on a real node: the operator is installed by its chart, a cluster and topics are made of the samples, and while a producer
# goes on, agents are scaled, killed, drained, given other credentials and another image. Every acknowledged record must be there once,
# in order, where the producer was told. In a folder of its own, beside any cluster that runs; when something fails, it prints what
# explains it. Run by hack/test.sh as the stage `cluster`; needs the programs in target/release.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
CLUSTER_DIR=$(mktemp -d)/cluster
. hack/lib-cluster.sh
. hack/lib-install.sh
. hack/lib-clients.sh
export LC_ALL=C

VERSION=$(workspace_version)
# The same images by another tag.
NEXT=$VERSION-next
CLUSTER=streamhouse
# What a pause of all acknowledgements may last, in seconds. A dead agent's partitions stand still for a lease (10 s) and what it takes
# to move them; one that is asked to go hands them over within a second or two. Both with much room for a machine that is busy with
# something else: the numbers are printed.
AFTER_A_KILL=60
WHEN_PLANNED=45
RECORDS=100000
RATE=200

# finish STATUS COMMAND: of the script and the command it ended with. What explains a failure is long, so the reason comes first.
finish() {
  local status=$1 file
  trap - EXIT
  # The message of `fail` is there already.
  case $status:$2 in 0:* | *:exit*) ;; *) printf '\nerror: the command ended with status %s: %s\n' "$status" "$2" >&2 ;; esac
  if [ "$status" != 0 ]; then
    for file in consoles left; do
      if [ -s "$WORK/$file" ]; then say "$file, as asked last"; cut -c1-240 "$WORK/$file"; fi
    done
    if has_processes "$CLUSTER_DIR"; then
      explain_failure || true
      cluster_logs "$CLUSTER_DIR"
    fi
  fi
  cluster_stop "$CLUSTER_DIR" && rm -rf "${CLUSTER_DIR%/*}"
  exit "$status"
}

of_cluster() { in_sample get streamhousecluster "$CLUSTER" -o "jsonpath=$1"; }
of_agents() { in_sample get deployment "$CLUSTER-agent" -o "jsonpath=$1"; }
condition() { echo "{.status.conditions[?(@.type==\"$1\")].status}"; }
# agents FORMAT: a line for each agent's pod.
agents() {
  in_sample get pods --selector "app.kubernetes.io/instance=$CLUSTER,app.kubernetes.io/component=agent" --output "jsonpath={range .items[*]}$1{\"\\n\"}{end}" | sort
}
uids() { agents '{.metadata.uid}'; }

# settled AGENTS: whether the operator has seen the newest spec, says that all is well, and so many agents run and no other.
settled() {
  [ "$(of_cluster "{.status.observedGeneration} $(condition Ready) $(condition Progressing) {.status.agents.summary}")" = \
    "$(of_cluster '{.metadata.generation}') True False $1/$1" ] &&
    [ "$(of_agents '{.status.observedGeneration} {.status.replicas} {.status.updatedReplicas} {.status.availableReplicas}')" = \
      "$(of_agents '{.metadata.generation}') $1 $1 $1" ] &&
    [ "$(uids | wc -l)" = "$1" ]
}

# ready_again AGENTS
ready_again() {
  eventually 180 "the cluster's being ready with $1 agents" settled "$1"
  numbers_go_on
}

revision() { of_agents '{.metadata.annotations.deployment\.kubernetes\.io/revision}'; }

# rolled_from REVISION: whether the pods' template has changed since.
rolled_from() { [ "$(revision)" != "$1" ]; }

# meanwhile LIMIT WHAT COMMAND...: something that happens while the producer goes on.
meanwhile() {
  local begin=$SECONDS
  echo "$(now) $1 $2" >>"$WORK/phases"
  "${@:3}"
  note "$2: the cluster is ready again after $((SECONDS - begin)) s"
}

# documented SECTION: runs the commands of a section of the tutorial as the document has them.
documented() {
  local commands
  commands=$("${CARGO_TARGET_DIR:-target}/release/xtask" docs-commands --print kubernetes docs/start/kubernetes.md "$1")
  bash -e -o pipefail -c "$commands" >"$WORK/documented" 2>&1 </dev/null ||
    { cat "$WORK/documented" >&2; fail "the commands of the section '$1' of docs/start/kubernetes.md fail"; }
}

# Gives the images the names by which the tutorial and config/dev refer to them, because the node cannot pull any.
tag_as_documented() {
  local name
  for name in agent operator cli; do
    cluster_ctr "$CLUSTER_DIR" images tag "ghcr.io/streamhouse/streamhouse-$name:$VERSION" \
      "registry.example.com/streamhouse/streamhouse-$name:$VERSION" >/dev/null
  done
  name=$(sed -nE 's/^ +image: (postgres:.*)/\1/p' config/dev/postgresql.yaml)
  cluster_ctr "$CLUSTER_DIR" images tag "$POSTGRESQL_IMAGE" "docker.io/library/$name" >/dev/null
  name=$(sed -nE 's/^ +image: (minio.*)/\1/p' config/dev/minio.yaml)
  cluster_ctr "$CLUSTER_DIR" images tag "$MINIO_IMAGE" "docker.io/$name" >/dev/null
}

# The tutorial in the empty cluster first; then the operator again, with options that shorten the tests.
install() {
  cluster_load_streamhouse "$CLUSTER_DIR" "$VERSION" "$NEXT"
  toolbox_archive "$WORK/toolbox.tar"
  cluster_load_image "$CLUSTER_DIR" "$WORK/toolbox.tar"
  tag_as_documented
  documented "On an existing cluster"
  kubectl apply --server-side -f "$PROMETHEUS_OPERATOR_FOLDER/crds" >/dev/null
  # What nobody tells the operator of, such as a Secret's change, it sees within this time.
  install_operator "$VERSION" --set operator.driftInterval=5s --set "monitoring.serviceMonitor.enabled=true,monitoring.serviceMonitor.interval=5s" \
    --set "monitoring.serviceMonitor.labels.release=watch,monitoring.prometheusRule.labels.release=watch" \
    --set "monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.nodes=true" >/dev/null
}

# The rest of the tutorial.
tutorial() {
  documented "Produce and consume"
  grep -q '^two pounds of tea' "$WORK/documented" || note "the client's output was lost with its pod"
  documented "Change something"
  eventually 180 "the cluster's being ready with 3 agents" settled 3
}

# A file goes in by standard input and comes out of two members of a group, the same byte for byte.
shared_out() { [ "$(client_exec member-1 group describe readers 2>/dev/null | grep -cE ' orders-[0-9] orders-[0-9] *$')" = 2 ]; }
real_input() {
  local member
  need words
  head -n "$RECORDS" "$WORDS" >"$WORK/in"
  for member in 1 2; do client_start "member-$member" consume orders --group readers --from-beginning --format '%p %o %v\n'; done
  eventually 60 "an equal share for each member of the group" shared_out
  client_feed "$WORK/in" writer produce orders --print-offsets
  eventually 120 "the acknowledgement of $RECORDS records" client_printed "$RECORDS" '^orders-[0-9]+@' writer
  client_lines writer '^orders-[0-9]+@' >"$WORK/stored"
  client_fed
  client_ended writer
  client_stop writer
  eventually 120 "the group's reading of $RECORDS records" client_printed "$RECORDS" '^[0-9]+ [0-9]+ ' member-1 member-2
  for member in 1 2; do
    client_lines "member-$member" '^[0-9]+ [0-9]+ ' >"$WORK/member-$member"
    note "member $member read $(wc -l <"$WORK/member-$member") records of partitions $(cut -d' ' -f1 "$WORK/member-$member" | sort -un | paste -sd,)"
    client_stop "member-$member"
  done
  # Each line's place, in the order of the file, then the line that a member printed from that place.
  awk 'FNR == NR { place = $1 " " $2; line[place] = substr($0, length(place) + 2); next }
    { sub(/^.*-/, ""); sub(/@/, " "); print line[$0] }' <(cat "$WORK"/member-[12]) "$WORK/stored" >"$WORK/out"
  [ "$(cat "$WORK"/member-[12] | wc -l)" = "$RECORDS" ] || fail "the group read more or fewer than $RECORDS records"
  cmp "$WORK/in" "$WORK/out" || fail "what came out is not what went in"
  note "$RECORDS lines of a dictionary, the same byte for byte: $(sha256sum <"$WORK/out" | cut -c1-16)"
}

scale() {
  in_sample scale streamhousecluster "$CLUSTER" --replicas="$1" >/dev/null
  ready_again "$1"
}

# from_json INDEX: a part of the JSON text on standard input.
from_json() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

# Agents are named as their pods. A partition that is on its way from one agent to another has no leader for a moment. Sets LEADER.
leader_is_known() {
  LEADER=$(client_exec numbers topic describe payments --output json | from_json '["partitions"][0]["leader"]') &&
    agents '{.metadata.name}' | grep -xF -- "$LEADER" >/dev/null
}
find_leader() { eventually 60 "a pod that leads partition 0 of payments" leader_is_known; }
restarts() { in_sample get pod "$1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'; }
was_restarted() { [ "$(restarts "$1")" -gt "$2" ]; }

# With no word to it, and none from it.
kill_agent() {
  local container
  container=$(in_sample get pod "$1" -o 'jsonpath={.status.containerStatuses[0].containerID}')
  cluster_ctr "$CLUSTER_DIR" task kill --signal SIGKILL "${container#containerd://}"
}

# Its container is started again, as another life of the same agent, which takes back what was its own.
kill_a_leader() {
  local pod before
  find_leader
  pod=$LEADER
  before=$(restarts "$pod")
  kill_agent "$pod"
  eventually 60 "the end of the agent that was killed" was_restarted "$pod" "$before"
  ready_again "$1"
}

# An agent that does not come back: its leases have to run out. A pod that is only deleted, by force too, has a moment to hand over.
delete_a_leader() {
  local pod
  find_leader
  pod=$LEADER
  kill_agent "$pod"
  in_sample delete pod "$pod" --force --grace-period=0 >/dev/null 2>&1
  ready_again "$1"
  [[ $(agents '{.metadata.name}') != *"$pod"* ]] || fail "the pod $pod is still there"
}

# The node is drained, and may be used again at once: it is the only one. Evictions wait for the disruption budget.
drain() {
  local before drained
  before=$(uids)
  kubectl drain node --pod-selector "app.kubernetes.io/instance=$CLUSTER,app.kubernetes.io/component=agent" --delete-emptydir-data \
    --timeout=180s >"$WORK/drain" 2>&1 &
  drained=$!
  eventually 30 "the drain's beginning" node_is_closed
  kubectl uncordon node >/dev/null
  wait "$drained" || { cat "$WORK/drain" >&2; fail "the node could not be drained"; }
  grep -q "violate the pod's disruption budget" "$WORK/drain" || { cat "$WORK/drain" >&2; fail "no eviction had to wait for the disruption budget"; }
  ready_again "$1"
  [ -z "$(comm -12 <(echo "$before") <(uids))" ] || fail "an agent outlived the drain"
}
node_is_closed() { [ "$(kubectl get node node -o 'jsonpath={.spec.unschedulable}')" = true ]; }

sql() { in_sample exec postgresql-0 -- psql --host=/tmp --username=streamhouse --dbname=streamhouse_metadata --quiet --no-align --tuples-only --command "$1"; }

# Another user gets the same rights; once the Secret names it and the agents have it, the old password is no longer good.
rotate() {
  local before uri
  before=$(revision)
  sql "CREATE ROLE rotated LOGIN PASSWORD 'rotated' IN ROLE streamhouse"
  uri=$(echo -n "postgres://rotated:rotated@postgresql.$SAMPLE_NAMESPACE.svc:5432/streamhouse_metadata" | base64 -w 0)
  in_sample patch secret streamhouse-postgresql --type merge --patch "{\"data\":{\"uri\":\"$uri\"}}" >/dev/null
  eventually 60 "a new template of the pods" rolled_from "$before"
  ready_again "$1"
  sql "ALTER ROLE streamhouse PASSWORD 'no longer told'"
  sql "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'streamhouse' AND client_addr IS NOT NULL" >/dev/null
  ready_again "$1"
  [ "$(revision)" = "$((before + 1))" ] || fail "the pods rolled $(($(revision) - before)) times for one change of a Secret"
}

# What each agent's console says, as people with access to the pods would ask it.
consoles() {
  local pod
  for pod in $(agents '{.metadata.name}'); do
    kubectl get --raw "/api/v1/namespaces/$SAMPLE_NAMESPACE/pods/$pod:8080/proxy/console/api/overview" 2>&1 || true
    echo
  done
}

# consoles_say COUNT TEXT: whether so many consoles answer with that text; what they all say is kept in $WORK/consoles.
consoles_say() {
  consoles >"$WORK/consoles"
  [ "$(grep -cF -- "$2" "$WORK/consoles")" = "$1" ]
}

# Another version, with the console on.
roll() {
  local before id
  before=$(revision)
  id=$(of_cluster '{.status.clusterId}')
  [ -n "$id" ] || fail "the status has no cluster's id"
  eventually 30 "the consoles' absence while they are off" consoles_say "$1" NotFound
  in_sample patch streamhousecluster "$CLUSTER" --type merge \
    --patch "{\"spec\":{\"version\":\"$NEXT\",\"agents\":{\"settings\":{\"console\":true}}}}" >/dev/null
  eventually 60 "a new template of the pods" rolled_from "$before"
  ready_again "$1"
  [ "$(agents '{.spec.containers[0].image}' | sort -u)" = "ghcr.io/streamhouse/streamhouse-agent:$NEXT" ] || fail "not all agents have the new image"
  [ "$(of_cluster '{.status.version}')" = "$NEXT" ] || fail "the status has not the new version"
  eventually 30 "an answer with the cluster's id from the console of each agent" consoles_say "$1" "\"cluster_id\":\"$id\""
}

failover() {
  numbers_start payments "$RATE"
  meanwhile "$WHEN_PLANNED" "scaled from 2 agents to 1" scale 1
  meanwhile "$WHEN_PLANNED" "scaled from 1 agent to 3" scale 3
  meanwhile "$AFTER_A_KILL" "a leader killed, which comes back" kill_a_leader 3
  meanwhile "$AFTER_A_KILL" "a leader killed, its pod deleted by force" delete_a_leader 3
  meanwhile "$WHEN_PLANNED" "the node drained" drain 3
  meanwhile "$WHEN_PLANNED" "other credentials of the database" rotate 3
  meanwhile "$WHEN_PLANNED" "another image" roll 3
  meanwhile "$WHEN_PLANNED" "scaled from 3 agents to 1" scale 1
  numbers_stop "$WORK/acks"
}

# Everything is read, also what is more than was produced.
nothing_is_lost() {
  local stored
  client_start reader consume payments --from-beginning --format '%p %o %v\n'
  eventually 60 "the reader's start" client_phase reader Running
  stored=$(client_exec reader topic describe payments --output json |
    python3 -c 'import json, sys; print(sum(p["high_watermark"] for p in json.load(sys.stdin)["partitions"]))')
  eventually 120 "the reading of $stored records" client_printed "$stored" '^[0-9]+ [0-9]+ [0-9]+$' reader
  client_lines reader '^[0-9]+ [0-9]+ [0-9]+$' >"$WORK/read"
  client_stop reader
  python3 hack/cluster/ledger.py "$NUMBERS" "$WORK/acks" "$WORK/read" "$WORK/phases" || fail "what is stored is not what was acknowledged"
}

operator_metrics() { kubectl get --raw "/api/v1/namespaces/$OPERATOR_NAMESPACE/services/streamhouse-operator-metrics:http/proxy/metrics"; }
operator_has_worked() {
  operator_metrics | grep -qE '^streamhouse_operator_reconciles_total\{kind="StreamHouseCluster",outcome="ok"\} [1-9]'
}

# Neither the same values again nor another operator's process change anything.
nothing_restarts() {
  local before operator
  before=$(uids)
  operator=$(kubectl --namespace "$OPERATOR_NAMESPACE" get pods -o 'jsonpath={.items[*].metadata.uid}')
  helm upgrade streamhouse-operator charts/streamhouse-operator --namespace "$OPERATOR_NAMESPACE" --reuse-values --wait --timeout 120s >/dev/null
  [ "$(kubectl --namespace "$OPERATOR_NAMESPACE" get pods -o 'jsonpath={.items[*].metadata.uid}')" = "$operator" ] ||
    fail "an upgrade that changes nothing restarted the operator"
  kubectl --namespace "$OPERATOR_NAMESPACE" rollout restart deployment/streamhouse-operator >/dev/null
  kubectl --namespace "$OPERATOR_NAMESPACE" rollout status deployment/streamhouse-operator --timeout=120s >/dev/null
  eventually 60 "a reconciliation by the new operator" operator_has_worked
  eventually 60 "the cluster's being ready" settled 1
  [ "$(uids)" = "$before" ] || fail "agents were restarted"
  note "the agents' pods are the same"
}

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
    host: https://$CLUSTER_NODE_IP:6443
    tlsConfig: {caFile: $CLUSTER_DIR/pki/ca.crt, certFile: $CLUSTER_DIR/pki/admin.crt, keyFile: $CLUSTER_DIR/pki/admin.key}
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

budget_is() { [ "$(in_sample get poddisruptionbudget "$CLUSTER-agent" -o 'jsonpath={.spec.maxUnavailable}')" = "$1" ]; }

# The real Prometheus Operator makes settings of the monitors and rules that our chart and our operator have made; a real Prometheus
# takes them, with the targets that its own package finds. All run in the cluster's network, as programs of this machine.
watched() {
  local before pki=$CLUSTER_DIR/pki
  WATCH=$WORK/prometheus
  mkdir -p "$WATCH/rules"
  before=$(uids)
  in_sample patch streamhousecluster "$CLUSTER" --type merge --patch '{"spec": {"monitoring": {
    "serviceMonitor": {"enabled": true, "interval": "5s", "labels": {"release": "watch"}},
    "prometheusRule": {"enabled": true, "labels": {"release": "watch"}, "for": {"AgentDown": "3m"}},
    "dashboards": {"enabled": true}}}}' >/dev/null
  eventually 60 "the cluster's being ready" settled "$1"
  in_sample patch poddisruptionbudget "$CLUSTER-agent" --type merge --patch '{"spec": {"maxUnavailable": 2}}' >/dev/null
  eventually 60 "the undoing of a change by hand" budget_is 1
  cluster_service "$CLUSTER_DIR" prometheus-operator env -u KUBECONFIG "$PROMETHEUS_OPERATOR_FOLDER/operator" --apiserver="https://$CLUSTER_NODE_IP:6443" \
    --ca-file="$pki/ca.crt" --cert-file="$pki/admin.crt" --key-file="$pki/admin.key" --web.listen-address="$CLUSTER_NODE_IP:9091"
  a_prometheus | kubectl apply --server-side -f - >/dev/null
  eventually 60 "settings of Prometheus of two monitors and two files of rules" settings_are_made
  grep -q 'for: 3m' "$WATCH"/rules/*"$CLUSTER-alerts"* || fail "the cluster's own time of an alert is not in its rules"
  cluster_service "$CLUSTER_DIR" discovery env -u KUBECONFIG "$KUBERNETES_DISCOVERY_FOLDER/discovery" "$WATCH/generated.yml" "$WATCH"
  eventually 30 "settings of Prometheus with files of targets" test -e "$WATCH/prometheus.yml"
  cluster_service "$CLUSTER_DIR" prometheus prometheus --config.file="$WATCH/prometheus.yml" --storage.tsdb.path="$WATCH/data" \
    --web.listen-address="$CLUSTER_NODE_IP:9090"
  cluster_exec "$CLUSTER_DIR" env PYTHONPATH=tests python3 -B tests/observability/check_cluster.py "http://$CLUSTER_NODE_IP:9090" "$CLUSTER" "$SAMPLE_NAMESPACE" "$1" \
    "$OPERATOR_NAMESPACE" 4 || fail "Prometheus does not see the cluster as it should"
  [ "$(uids)" = "$before" ] || fail "being watched restarted agents"
}

# topics_are NAME...: whether the command line lists these and no other. In a pod that goes on: of one that ends, the last lines may be lost.
topics_are() { [ "$(client_exec lister topic list --output json | from_names)" = "$*" ]; }
from_names() { python3 -c 'import json, sys; print(*sorted(topic["name"] for topic in json.load(sys.stdin)))'; }
topic_is_deleted() {
  client_start lister consume payments
  eventually 60 "the lister's start" client_phase lister Running
  eventually 30 "the list of three topics" topics_are orders payments shipments
  in_sample delete topic shipments --timeout=60s >/dev/null
  [ "$(sql "SELECT count(*) FROM topics WHERE name = 'shipments' AND deleted_at IS NULL")" = 0 ] ||
    fail "the resource shipments is gone, and the topic is still in the metadata"
  eventually 30 "the list of the other two topics" topics_are orders payments
  client_stop lister
}

# of_release: all objects of the release, of whatever kind.
of_release() {
  kubectl get "$(kubectl api-resources --verbs=list --output=name | grep -vxE "componentstatuses|endpoints" | paste -sd,)" --all-namespaces --ignore-not-found --output=name \
    --selector app.kubernetes.io/instance=streamhouse-operator
}
only_definitions_left() {
  of_release >"$WORK/left" && [ "$(sort "$WORK/left")" = "$(printf 'customresourcedefinition.apiextensions.k8s.io/%s.streamhouse.io\n' streamhouseclusters topics)" ]
}
uninstalled() {
  local before
  before=$(uids)
  helm uninstall streamhouse-operator --namespace "$OPERATOR_NAMESPACE" --wait --timeout 120s >/dev/null
  # Kubernetes collects the operator's pods after their Deployment, in its own time.
  eventually 60 "that the release leaves its definitions and nothing else" only_definitions_left
  [ "$(in_sample get streamhouseclusters,topics -o name | sort)" = "$(printf '%s\n' "streamhousecluster.streamhouse.io/$CLUSTER" \
    topic.streamhouse.io/orders topic.streamhouse.io/payments)" ] || fail "custom resources have gone with the release"
  [ "$(uids)" = "$before" ] || fail "agents have gone with the operator"
  client_start again consume payments --from-beginning --format '%p %o %v\n'
  eventually 120 "the reading of $NUMBERS records without an operator" client_printed "$NUMBERS" '^[0-9]+ [0-9]+ [0-9]+$' again
  cmp <(client_lines again '^[0-9]+ [0-9]+ [0-9]+$' | sort) <(sort "$WORK/read") || fail "other records are read than before"
  client_stop again
  note "definitions, resources, agents and $NUMBERS records are there"
}

need kubernetes-node prometheus-operator kubernetes-discovery dev-servers minio
as_root_again cluster-test.sh
WORK=${CLUSTER_DIR%/*}
trap 'finish "$?" "$BASH_COMMAND"' EXIT
trap 'exit 130' INT TERM
say "a node in $CLUSTER_DIR"
cluster_start "$CLUSTER_DIR"
cluster_use "$CLUSTER_DIR"
say "PostgreSQL, MinIO, the operator by its chart, the sample cluster and topics, by the tutorial's commands"
install
eventually 60 "the cluster's being ready" settled 1
in_sample scale streamhousecluster "$CLUSTER" --replicas=2 >/dev/null
eventually 180 "the cluster's being ready with 2 agents" settled 2
say "$RECORDS records from inside the cluster"
real_input
say "$RATE records a second, while agents come and go"
failover
say "what was acknowledged, and what is stored"
nothing_is_lost
say "what restarts nothing: the same release again, another process of the operator"
nothing_restarts
say "helm test"
helm test streamhouse-operator --namespace "$OPERATOR_NAMESPACE" --timeout 180s >"$WORK/helm-test" 2>&1 || { cat "$WORK/helm-test" >&2; fail "helm test failed"; }
[ "$(grep -cE '^Phase: +Succeeded' "$WORK/helm-test")" -ge 1 ] || fail "helm test ran nothing"
say "watched by Prometheus, as the Prometheus Operator sets it up"
watched 1
say "the tutorial's commands"
tutorial
say "a topic that goes with its resource"
topic_is_deleted
say "the operator uninstalled"
uninstalled
say "the end"
cluster_stop "$CLUSTER_DIR"
nothing_is_left() { cluster_leftovers "$CLUSTER_DIR" >"$WORK/left" && [ ! -s "$WORK/left" ]; }
eventually 30 "that nothing of the node is left" nothing_is_left
note "nothing is left; all of it took $SECONDS s"
