# shellcheck shell=bash
# Listeners with an address for each agent, on a real cluster, for hack/kind-test.sh, which sources it. Clients of this machine reach the
# nodes and no pod.
#
#   per_agent_listener AGENTS         adds the listener `nodes` and listeners for Kafka clients, uses them, and kills an agent
#   streamhouse_by BOOTSTRAP ARG...   runs the command line on this machine, for at most CLIENT_LIMIT seconds (60)
#   delete_topics BOOTSTRAP TOPIC...  deletes topics by it

streamhouse_by() { timeout "${CLIENT_LIMIT:-60}" "${CARGO_TARGET_DIR:-target}/release/streamhouse" --bootstrap "$@"; }
delete_topics() {
  local topic
  for topic in "${@:2}"; do streamhouse_by "$1" topic delete "$topic" >/dev/null || fail "the topic $topic cannot be deleted"; done
}

# of_listener FIELD [NAME]
of_listener() { of_cluster "{.status.listeners[?(@.name==\"${2:-nodes}\")]$1}"; }
# A line with the slot, the pod and the node's address of each agent.
agents_by_slot() { agents '{.metadata.labels.streamhouse\.io/agent-slot} {.metadata.name} {.status.hostIP}'; }
# node_port SLOT [LISTENER]
node_port() { in_sample get service "$CLUSTER-${2:-nodes}-$1" -o 'jsonpath={.spec.ports[0].nodePort}'; }
# Nothing while a Service has no endpoints.
pods_behind() {
  in_sample get endpointslices --selector "kubernetes.io/service-name=$CLUSTER-nodes-$1" \
    -o 'jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.targetRef.name}{"\n"}{end}' 2>/dev/null
}

# What clients should be told: for each agent the address of its node, and the port of its slot's Service.
expected_addresses() {
  local slot pod address
  agents_by_slot | while read -r slot pod address; do echo "$pod $address:$(node_port "$slot")"; done | sort
}

# The same as a client is told that asks at this address.
told_addresses() {
  CLIENT_LIMIT=20 streamhouse_by "$1" cluster --output json 2>"$WORK/told" |
    python3 -c 'import json, sys; [print(agent["agent_id"], agent["grpc_address"]) for agent in json.load(sys.stdin)["agents"]]' | sort
}

# addresses_are AGENTS: whether each of so many agents has a slot, its Service leads to it alone, and a client that asks any of them is told
# the addresses of all. A kubelet looks at the ConfigMap, by which agents are told, once a minute, and when it hears of a change of the pod.
addresses_are() {
  local slot pod address
  expected_addresses >"$WORK/addresses"
  [ "$(wc -l <"$WORK/addresses")" = "$1" ] && [ "$(of_listener '.addresses[*]' | wc -w)" = "$1" ] || return 1
  while read -r slot pod address; do [ "$(pods_behind "$slot")" = "$pod" ] || return 1; done < <(agents_by_slot)
  in_sample annotate pods --selector "app.kubernetes.io/instance=$CLUSTER,app.kubernetes.io/component=agent" --overwrite \
    "example.com/seen=$SECONDS" >/dev/null
  while read -r pod address; do told_addresses "$address" | cmp -s - "$WORK/addresses" || return 1; done <"$WORK/addresses"
}

# numbered FROM TO: prints records.
numbered() { seq "$1" "$2" | sed 's/.*/node-&:by a node &/'; }

# by_nodes FROM TO: produces records by the listener's first contact, and reads all until then.
by_nodes() {
  local bootstrap
  bootstrap=$(of_listener .bootstrap)
  numbered "$1" "$2" | streamhouse_by "$bootstrap" produce shipments --key-separator : >"$WORK/produced" 2>&1 ||
    { cat "$WORK/produced" >&2; fail "streamhouse cannot produce by $bootstrap"; }
  streamhouse_by "$bootstrap" consume shipments --from-beginning --exit-at-end --format '%k:%v\n' >"$WORK/consumed" ||
    fail "streamhouse cannot consume by $bootstrap"
  cmp <(grep '^node-' "$WORK/consumed" | sort) <(numbered 1 "$2" | sort) || fail "what was consumed by $bootstrap is not what was produced"
}

# The listeners: StreamHouse clients by the nodes, Kafka clients in pods with and without TLS, and by the nodes.
LISTENERS='{"spec":{"listeners":{
  "kafka":{"enabled":true,"autoCreatePartitions":3},
  "additional":[
    {"name":"nodes","type":"nodeport","unsafeWithoutAuthentication":true,"port":9094,"nodeAddressType":"InternalIP"},
    {"name":"kafka-tls","type":"internal","protocol":"kafka","port":9093,"tls":{"secretName":"kafka-tls"}},
    {"name":"kafka-nodes","type":"nodeport","unsafeWithoutAuthentication":true,"protocol":"kafka","port":9095,"nodeAddressType":"InternalIP"}]}}}'

# The Secret kafka-tls: a certificate with the names that Kafka clients verify, signed by itself.
kafka_certificate() {
  local names=("$CLUSTER-kafka-tls-bootstrap" "*.$CLUSTER-kafka.$SAMPLE_NAMESPACE.svc.cluster.local") all
  printf -v all ',DNS:%s' "${names[@]}"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=kafka" -addext "subjectAltName=${all#,}" \
    -keyout "$WORK/kafka.key" -out "$WORK/kafka.crt" 2>/dev/null || fail "openssl cannot make a certificate"
  in_sample create secret tls kafka-tls --cert="$WORK/kafka.crt" --key="$WORK/kafka.key" >/dev/null
}

# kafka_client_inside NAME BOOTSTRAP OPTION...: a Kafka client in a pod produces to a topic of its name, which is made for it, and reads it.
kafka_client_inside() {
  local name=$1 options="-b $2 ${*:3}"
  {
    pod_head "$name"
    echo "  volumes: [{name: ca, secret: {secretName: kafka-tls, items: [{key: tls.crt, path: ca.crt}]}}]"
    echo "  containers:"
    container client "$TOOLBOX_IMAGE"
    cat <<YAML
    args:
    - -c
    - |
      seq 1 300 | sed 's/.*/&:&/' | kcat $options -P -K : -t $name && kcat $options -C -t $name -o beginning -e -q -f '%p %s\\n'
      sleep 3600
    volumeMounts: [{name: ca, mountPath: /ca}]
YAML
  } | in_sample create -f - >/dev/null
  eventually 120 "300 records read by the Kafka client $name" client_printed 300 '^[0-9]+ [0-9]+$' "$name"
  kafka_records_are "$name" <(client_lines "$name" '^[0-9]+ [0-9]+$')
  client_stop "$name"
}

# kafka_records_are NAME FILE: whether these are 300 records of three partitions, each record once.
kafka_records_are() {
  cp "$2" "$WORK/kafka"
  cmp <(cut -d' ' -f2 "$WORK/kafka" | sort -n) <(seq 1 300) || fail "what the Kafka client $1 read is not what it produced"
  [ "$(cut -d' ' -f1 "$WORK/kafka" | sort -u | wc -l)" = 3 ] || fail "the records of the Kafka client $1 are not in three partitions"
}

# kafka_addresses_are AGENTS: whether a Kafka client of this machine is told a port of a node for each agent.
kafka_addresses_are() {
  local slot pod address
  agents_by_slot | while read -r slot pod address; do echo "$address:$(node_port "$slot" kafka-nodes)"; done | sort >"$WORK/kafka-expected"
  timeout 20 kcat -b "$(of_listener .bootstrap kafka-nodes)" -L -J 2>"$WORK/kafka-told" |
    python3 -c 'import json, sys; [print(broker["name"]) for broker in json.load(sys.stdin)["brokers"]]' | sort >"$WORK/kafka-brokers"
  [ "$(wc -l <"$WORK/kafka-brokers")" = "$1" ] && cmp -s "$WORK/kafka-expected" "$WORK/kafka-brokers"
}

# kafka_clients AGENTS: inside and outside. The topics are deleted in the end, because others count them.
kafka_clients() {
  local begin=$SECONDS bootstrap
  eventually 120 "an address for each agent, as Kafka clients are told" kafka_addresses_are "$1"
  kafka_client_inside kafka-plain "$CLUSTER-kafka-bootstrap:9092"
  kafka_client_inside kafka-secure "$CLUSTER-kafka-tls-bootstrap:9093" -X security.protocol=ssl -X ssl.ca.location=/ca/ca.crt \
    -X ssl.endpoint.identification.algorithm=https
  bootstrap=$(of_listener .bootstrap kafka-nodes)
  seq 1 300 | sed 's/.*/&:&/' | timeout 60 kcat -b "$bootstrap" -P -K : -t kafka-outside || fail "kcat cannot produce by $bootstrap"
  timeout 60 kcat -b "$bootstrap" -C -t kafka-outside -o beginning -e -q -f '%p %s\n' >"$WORK/kafka-outside" ||
    fail "kcat cannot consume by $bootstrap"
  kafka_records_are kafka-outside "$WORK/kafka-outside"
  delete_topics "$(of_listener .bootstrap)" kafka-plain kafka-secure kafka-outside
  note "Kafka clients in pods, with and without TLS, and at $(paste -sd' ' "$WORK/kafka-brokers"), in $((SECONDS - begin)) s"
}

# An agent gets the lowest slot that is free. A roll leaves a gap below, which one more agent fills: then a successor gets the slot of the one
# that is gone.
per_agent_listener() {
  local begin=$SECONDS count=$(($1 + 1)) before pod address successor
  before=$(revision)
  kafka_certificate
  in_sample patch streamhousecluster "$CLUSTER" --type merge --patch "$LISTENERS" >/dev/null
  eventually 60 "a new template of the pods" rolled_from "$before"
  eventually 180 "the cluster's being ready with $1 agents" settled "$1"
  in_sample scale streamhousecluster "$CLUSTER" --replicas="$count" >/dev/null
  eventually 180 "the cluster's being ready with $count agents" settled "$count"
  eventually 90 "an address of its own for each agent" addresses_are "$count"
  [ "$(of_cluster "$(condition ListenersAvailable)")" = True ] || fail "the condition ListenersAvailable is not True"
  for address in $(agents '{.status.podIP}'); do
    ! ip route get "$address" >/dev/null 2>&1 || fail "the pod $address can be reached from outside of the cluster"
  done
  by_nodes 1 200
  kafka_clients "$count"
  note "$count agents at $(cut -d' ' -f2 "$WORK/addresses" | paste -sd' ')"
  pod=$(pods_behind 0)
  kill_agent "$pod"
  in_sample delete pod "$pod" --force --grace-period=0 >/dev/null 2>&1
  eventually 180 "the cluster's being ready with $count agents" settled "$count"
  eventually 90 "the slot's going to another agent" addresses_are "$count"
  successor=$(pods_behind 0)
  [ -n "$successor" ] && [ "$successor" != "$pod" ] || fail "the Service of slot 0 leads to ${successor:-no pod}"
  by_nodes 201 400
  eventually 60 "the address of the successor, as Kafka clients are told" kafka_addresses_are "$count"
  note "slot 0 went from $pod to $successor; all of it took $((SECONDS - begin)) s"
}
