# shellcheck shell=bash
# A listener with an address for each agent, on a real cluster, for hack/kind-test.sh, which sources it. Its clients are of this machine: they
# reach the nodes and no pod.
#
#   per_agent_listener AGENTS    adds the listener `nodes`, uses it, and kills an agent

of_listener() { of_cluster "{.status.listeners[?(@.name==\"nodes\")]$1}"; }
# A line with the slot, the pod and the node's address of each agent.
agents_by_slot() { agents '{.metadata.labels.streamhouse\.io/agent-slot} {.metadata.name} {.status.hostIP}'; }
node_port() { in_sample get service "$CLUSTER-nodes-$1" -o 'jsonpath={.spec.ports[0].nodePort}'; }
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
  timeout 20 "${CARGO_TARGET_DIR:-target}/release/streamhouse" --bootstrap "$1" cluster --output json 2>"$WORK/told" |
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
  numbered "$1" "$2" | timeout 60 "${CARGO_TARGET_DIR:-target}/release/streamhouse" --bootstrap "$bootstrap" produce shipments --key-separator : \
    >"$WORK/produced" 2>&1 || { cat "$WORK/produced" >&2; fail "streamhouse cannot produce by $bootstrap"; }
  timeout 60 "${CARGO_TARGET_DIR:-target}/release/streamhouse" --bootstrap "$bootstrap" consume shipments --from-beginning --exit-at-end --format '%k:%v\n' \
    >"$WORK/consumed" || fail "streamhouse cannot consume by $bootstrap"
  cmp <(grep '^node-' "$WORK/consumed" | sort) <(numbered 1 "$2" | sort) || fail "what was consumed by $bootstrap is not what was produced"
}

# An agent gets the lowest slot that is free. A roll leaves a gap below, which one more agent fills: then a successor gets the slot of the one
# that is gone.
per_agent_listener() {
  local begin=$SECONDS count=$(($1 + 1)) before pod address successor
  before=$(revision)
  in_sample patch streamhousecluster "$CLUSTER" --type merge --patch \
    '{"spec":{"listeners":{"additional":[{"name":"nodes","type":"nodeport","port":9094,"nodeAddressType":"InternalIP"}]}}}' >/dev/null
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
  note "$count agents at $(cut -d' ' -f2 "$WORK/addresses" | paste -sd' ')"
  pod=$(pods_behind 0)
  kill_agent "$pod"
  in_sample delete pod "$pod" --force --grace-period=0 >/dev/null 2>&1
  eventually 180 "the cluster's being ready with $count agents" settled "$count"
  eventually 90 "the slot's going to another agent" addresses_are "$count"
  successor=$(pods_behind 0)
  [ -n "$successor" ] && [ "$successor" != "$pod" ] || fail "the Service of slot 0 leads to ${successor:-no pod}"
  by_nodes 201 400
  note "slot 0 went from $pod to $successor; all of it took $((SECONDS - begin)) s"
}
