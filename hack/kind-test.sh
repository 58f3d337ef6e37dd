#!/usr/bin/env bash
# The proof on a real kind cluster of two nodes, which hack/kind-up.sh makes: the operator is installed by its chart, a cluster and topics
# are made of the samples, and while a producer goes on, agents are scaled, killed, drained, given other credentials and another image. Every
# acknowledged record must be there once, in order, where the producer was told. When something fails, it prints what explains it. Run by
# hack/test.sh as the stage `cluster`, in a Docker of its own: cargo xtask kind lab hack/kind-test.sh. Needs the programs in target/release.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-install.sh
. hack/lib-clients.sh
. hack/lib-watch.sh
. hack/lib-listeners.sh
. hack/lib-kafka.sh
. hack/lib-backup.sh
. hack/lib-users.sh
export LC_ALL=C

[ -n "${STREAMHOUSE_LAB:-}" ] || fail "run it in a Docker of its own: cargo xtask kind lab hack/kind-test.sh"
KIND_NAME=proof
NODES=2
VERSION=$(workspace_version)
# The same images by other tags: of a second run of hack/kind-up.sh, and of another version.
AGAIN=$VERSION-again
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
    for file in consoles left users; do
      if [ -s "$WORK/$file" ]; then say "$file, as asked last"; cut -c1-240 "$WORK/$file"; fi
    done
    kubectl get nodes,pods --all-namespaces --output wide || true
    explain_failure || true
    watch_logs
  fi
  rm -rf "$WORK"
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
  # As in a shell of a reader, where `| head` may end a pipe early.
  bash -e -c "$commands" >"$WORK/documented" 2>&1 </dev/null ||
    { cat "$WORK/documented" >&2; fail "the commands of the section '$1' of docs/start/kubernetes.md fail"; }
}

# node_of POD
node_of() { in_sample get pod "$1" -o 'jsonpath={.spec.nodeName}'; }

# on_nodes COMMAND...: runs a command on each node.
on_nodes() {
  local node
  for node in $(kind get nodes --name "$KIND_NAME"); do docker exec "$node" "$@" >/dev/null; done
}

# kind_up OPTION...: as a user would; its images are of the programs in target/release, because nothing can be pulled.
kind_up() {
  hack/kind-up.sh --name "$KIND_NAME" --nodes "$NODES" --local --no-build --no-monitoring "$@" >"$WORK/kind-up" 2>&1 ||
    { cat "$WORK/kind-up" >&2; fail "hack/kind-up.sh $* fails"; }
  grep -E '^==> \[|^    done after' "$WORK/kind-up" || true
}

# images_are NAMESPACE SELECTOR IMAGE: whether all such pods have this image; those that end for a moment still have another.
images_are() { [ "$(images_of_pods "$1" "$2")" = "$3" ]; }
images_of_pods() { kubectl --namespace "$1" get pods --selector "$2" --output 'jsonpath={range .items[*]}{.spec.containers[0].image}{"\n"}{end}' | sort -u; }

# refused MESSAGE COMMAND...: hack/kind-up.sh ends with this message before it builds or creates anything.
refused() {
  local message=$1
  shift
  if "$@" >"$WORK/refused" 2>&1; then fail "$* does not fail"; fi
  grep -qF -- "$message" "$WORK/refused" || { cat "$WORK/refused" >&2; fail "$* does not say: $message"; }
  if grep -qF '==> [2/' "$WORK/refused"; then fail "$* fails late"; fi
}

# What is in the way is said at once.
refusals() {
  mkdir "$WORK/old"
  printf '#!/bin/sh\necho kind v0.20.0 go1.20.4 linux/amd64\n' >"$WORK/old/kind"
  chmod +x "$WORK/old/kind"
  refused "kind 0.29 or later is needed, and this is 0.20.0" env PATH="$WORK/old:$PATH" hack/kind-up.sh
  refused "choose another with KIND_CONSOLE_PORT" env KIND_CLIENT_PORT=50099 hack/kind-up.sh --name another
}

# The script twice: the second run rolls out what has another tag, as it does after a change of the code.
install() {
  local id
  kind_up
  grep -qF 'kubectl run client' "$WORK/kind-up" || fail "hack/kind-up.sh does not say what next"
  id=$(images_of_pods "$SAMPLE_NAMESPACE" app.kubernetes.io/component=agent)
  [[ $id =~ ^ghcr.io/streamhouse/streamhouse-agent:$VERSION-[0-9a-f]{12}$ ]] || fail "the agents' image has no tag of its own: $id"
  kind_up --tag "$AGAIN"
  eventually 60 "a rolling of the agents by a second run of hack/kind-up.sh" \
    images_are "$SAMPLE_NAMESPACE" app.kubernetes.io/component=agent "ghcr.io/streamhouse/streamhouse-agent:$AGAIN"
  eventually 60 "a rolling of the operator by a second run of hack/kind-up.sh" \
    images_are "$OPERATOR_NAMESPACE" app.kubernetes.io/name=streamhouse-operator "ghcr.io/streamhouse/streamhouse-operator:$AGAIN"
  refusals
  published
}

streamhouse_here() { streamhouse_by localhost:50052 "$@"; }

# Ports of localhost lead to the cluster.
published() {
  local page
  page=$(curl --noproxy '*' --silent --show-error --fail --max-time 10 http://localhost:18080/console/) || fail "the console does not answer on localhost"
  [[ $page == *"<html"* ]] || fail "the console on localhost answers with something else: ${page:0:200}"
  note "the console answers on http://localhost:18080/console/"
  # By a client of this machine, which reaches no pod.
  printf 'customer-%d:value %d\n' $(seq 200) | streamhouse_here produce shipments --key-separator : >"$WORK/produced" 2>&1 ||
    { cat "$WORK/produced" >&2; fail "streamhouse cannot produce by localhost:50052"; }
  streamhouse_here consume shipments --from-beginning --exit-at-end --format '%k:%v\n' >"$WORK/consumed" || fail "streamhouse cannot consume by localhost:50052"
  cmp <(sort "$WORK/consumed") <(printf 'customer-%d:value %d\n' $(seq 200) | sort) || fail "what was consumed by localhost:50052 is not what was produced"
  note "100 records went in and came out by localhost:50052"
}

# What the tests need besides: images, definitions, and an operator that sees sooner what nobody tells it of, such as a Secret's change.
prepare() {
  local name options=()
  toolbox_archive "$WORK/toolbox.tar"
  kind load image-archive --name "$KIND_NAME" "$WORK/toolbox.tar"
  on_nodes ctr --namespace k8s.io images tag --force "ghcr.io/streamhouse/streamhouse-agent:$VERSION" "ghcr.io/streamhouse/streamhouse-agent:$NEXT"
  kubectl apply --server-side -f "$PROMETHEUS_OPERATOR_FOLDER/crds" >/dev/null
  install_operator "$AGAIN" --set operator.driftInterval=5s --set "monitoring.serviceMonitor.enabled=true,monitoring.serviceMonitor.interval=5s" \
    --set "monitoring.serviceMonitor.labels.release=watch,monitoring.prometheusRule.labels.release=watch" \
    --set "monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.nodes=true" >/dev/null
}

# The image streamhouse.local/toolbox:1, Debian's static busybox, kcat and the command line: a shell, tools and clients for test pods.
toolbox_archive() {
  local applet options=()
  need busybox kcat
  for applet in $("$BUSYBOX" --list); do [ "$applet" = busybox ] || options+=(--link "/bin/$applet=busybox"); done
  quietly python3 hack/images/image.py --output "$1" --name "$TOOLBOX_IMAGE" --file "$BUSYBOX=/bin/busybox" "${options[@]}" \
    --program "$(command -v kcat)=/bin/kcat" --program "${CARGO_TARGET_DIR:-target}/release/streamhouse=/bin/streamhouse" --env PATH=/bin --entrypoint /bin/sh
}

# Gives the images the names by which the tutorial and config/dev refer to them, because the nodes cannot pull any.
tag_as_documented() {
  local name
  for name in agent operator cli; do
    on_nodes ctr --namespace k8s.io images tag --force "ghcr.io/streamhouse/streamhouse-$name:$VERSION" "registry.example.com/streamhouse/streamhouse-$name:$VERSION"
  done
  name=$(sed -nE 's/^ +image: (postgres:.*)/\1/p' config/dev/postgresql.yaml)
  on_nodes ctr --namespace k8s.io images tag --force localhost/streamhouse-dev/postgresql:kind-up "docker.io/library/$name"
  name=$(sed -nE 's/^ +image: (minio.*)/\1/p' config/dev/minio.yaml)
  on_nodes ctr --namespace k8s.io images tag --force localhost/streamhouse-dev/minio:kind-up "docker.io/$name"
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
  docker exec "$(node_of "$1")" ctr --namespace k8s.io task kill --signal SIGKILL "${container#containerd://}"
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

# The node with most agents is drained: they move to the other one. Evictions wait for the disruption budget.
drain() {
  local node
  node=$(agents '{.spec.nodeName}' | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
  kubectl drain "$node" --pod-selector "app.kubernetes.io/instance=$CLUSTER,app.kubernetes.io/component=agent" --delete-emptydir-data \
    --timeout=180s >"$WORK/drain" 2>&1 || { cat "$WORK/drain" >&2; fail "the node $node could not be drained"; }
  grep -q "violate the pod's disruption budget" "$WORK/drain" || { cat "$WORK/drain" >&2; fail "no eviction had to wait for the disruption budget"; }
  ready_again "$1"
  ! agents '{.spec.nodeName}' | grep -qxF "$node" || fail "an agent is left on the node $node, which was drained"
  kubectl uncordon "$node" >/dev/null
}

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

# Another version, by its number: the tag of hack/kind-up.sh goes.
roll() {
  local before id
  before=$(revision)
  id=$(of_cluster '{.status.clusterId}')
  [ -n "$id" ] || fail "the status has no cluster's id"
  in_sample patch streamhousecluster "$CLUSTER" --type merge --patch "{\"spec\":{\"version\":\"$NEXT\",\"image\":{\"tag\":null}}}" >/dev/null
  eventually 60 "a new template of the pods" rolled_from "$before"
  ready_again "$1"
  [ "$(agents '{.spec.containers[0].image}' | sort -u)" = "ghcr.io/streamhouse/streamhouse-agent:$NEXT" ] || fail "not all agents have the new image"
  [ "$(of_cluster '{.status.version}')" = "$NEXT" ] || fail "the status has not the new version"
  eventually 30 "an answer with the cluster's id from the console of each agent" consoles_say "$1" "\"cluster_id\":\"$id\""
}

failover() {
  users_start
  numbers_start payments "$RATE"
  kafka_numbers_start
  meanwhile "$WHEN_PLANNED" "scaled from 3 agents to 1, first" scale 1
  meanwhile "$WHEN_PLANNED" "scaled from 1 agent to 3" scale 3
  meanwhile "$AFTER_A_KILL" "a leader killed, which comes back" kill_a_leader 3
  meanwhile "$AFTER_A_KILL" "a leader killed, its pod deleted by force" delete_a_leader 3
  meanwhile "$WHEN_PLANNED" "a node drained" drain 3
  meanwhile "$WHEN_PLANNED" "other credentials of the database" rotate 3
  meanwhile "$WHEN_PLANNED" "another image" roll 3
  meanwhile "$WHEN_PLANNED" "scaled from 3 agents to 1" scale 1
  numbers_stop "$WORK/acks"
  kafka_numbers_hold
  users_end
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
  python3 hack/kind/ledger.py "$NUMBERS" "$WORK/acks" "$WORK/read" "$WORK/phases" || fail "what is stored is not what was acknowledged"
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
  of_release >"$WORK/left" && [ "$(sort "$WORK/left")" = "$(printf 'customresourcedefinition.apiextensions.k8s.io/%s.streamhouse.io\n' streamhouseclusters topics users)" ]
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

# The tutorial's other way: what it says to clean up, while an operator runs, and then its commands in a cluster that has nothing.
by_hand() {
  install_operator "$AGAIN" >/dev/null
  documented "Clean up"
  tag_as_documented
  documented "On an existing cluster"
  eventually 60 "agents of the registry that the tutorial names" \
    images_are "$SAMPLE_NAMESPACE" app.kubernetes.io/component=agent "registry.example.com/streamhouse/streamhouse-agent:$VERSION"
}

need kind-lab kcat kafka-python prometheus-operator kubernetes-discovery dev-servers minio cloudnative-pg barman-plugin barman
WORK=$(mktemp -d)
export KIND_KUBECONFIG=$KUBECONFIG
trap 'finish "$?" "$BASH_COMMAND"' EXIT
trap 'exit 130' INT TERM
say "hack/kind-up.sh, twice"
install
prepare
eventually 60 "the cluster's being ready" settled 1
in_sample scale streamhousecluster "$CLUSTER" --replicas=2 >/dev/null
eventually 180 "the cluster's being ready with 2 agents" settled 2
say "$RECORDS records from inside the cluster"
real_input
say "an address of its own for each agent, by the nodes' ports, and Kafka clients inside and outside"
per_agent_listener 2
say "$RATE records a second, while agents come and go, and users of a cluster with authentication"
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
# It starts while the tutorial's servers do.
cloudnative_pg_start
say "the tutorial's commands for an existing cluster"
by_hand
database
say "backup and restore with CloudNativePG"
backup_and_restore
say "hack/kind-down.sh"
quietly hack/kind-down.sh --name "$KIND_NAME"
[ -z "$(docker ps --all --quiet)" ] || fail "containers are left: $(docker ps --all)"
note "no container is left; all of it took $SECONDS s"
