# shellcheck shell=bash
# Authentication on a real cluster, for hack/kind-test.sh, which sources it: a cluster of its own with users, TLS and access control lists,
# used while agents of the other one come and go, so that it takes no time of its own. Clients have the Secret of their user and nothing else.
#
#   users_start      starts all of it in the background
#   users_end        waits for its end, and prints what it found

SECURE=secure
SECURE_TOPIC=secured

users_start() {
  (
    trap - EXIT
    users_proof
  ) >"$WORK/users" 2>&1 </dev/null &
  USERS=$!
}

users_end() {
  local begin=$SECONDS status=0
  wait "$USERS" || status=$?
  [ "$status" = 0 ] || { cat "$WORK/users" >&2; fail "users of a cluster with authentication: status $status"; }
  cat "$WORK/users"
  note "waited for it for $((SECONDS - begin)) s"
}

users_proof() {
  local begin=$SECONDS
  secure_cluster
  users_inside inside-first
  users_outside
  users_inside inside-second
  user_is_deleted
  in_sample delete user,topic,streamhousecluster --selector "example.com/part=$SECURE" --timeout=60s >/dev/null
  in_sample delete secret "$SECURE-tls" "$SECURE-postgresql" >/dev/null
  note "users: all of it took $((SECONDS - begin)) s beside the rest"
}

# A CA, and a certificate of it for agents inside by the name of their Service, and outside by the nodes' addresses.
secure_certificate() {
  local folder=$WORK/secure-tls address names="DNS:$SECURE-agents.$SAMPLE_NAMESPACE.svc"
  mkdir "$folder"
  for address in $(kubectl get nodes --output 'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}'); do names+=",IP:$address"; done
  {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca -keyout "$folder/ca.key" -out "$folder/ca.crt"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=agents -keyout "$folder/tls.key" -out "$folder/tls.csr"
    openssl x509 -req -in "$folder/tls.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -days 2 \
      -extfile <(echo "subjectAltName=$names") -out "$folder/tls.crt"
  } 2>"$folder/log" || { cat "$folder/log" >&2; fail "openssl cannot make certificates"; }
  in_sample create secret generic "$SECURE-tls" --type kubernetes.io/tls --from-file="$folder/tls.crt" --from-file="$folder/tls.key" \
    --from-file="$folder/ca.crt" >/dev/null
}

# Image and object storage are those of the other cluster; the database and the prefix are its own.
secure_manifests() {
  in_sample get streamhousecluster "$CLUSTER" --output json | python3 -c '
import json, sys
name, spec = sys.argv[1], json.load(sys.stdin)["spec"]
tls = {"secretName": f"{name}-tls"}
kept = {key: spec[key] for key in ("image", "version") if key in spec}
nodes = {"name": "nodes", "type": "nodeport", "protocol": "kafka", "port": 9095, "nodeAddressType": "InternalIP", "tls": tls}
spec = kept | {
    "postgresql": {"connectionSecret": {"name": f"{name}-postgresql"}},
    "objectStorage": spec["objectStorage"] | {"prefix": name},
    "agents": {"replicas": 1},
    "listeners": {"grpc": {"tls": tls}, "additional": [nodes]},
    "authentication": {"mechanisms": ["SCRAM-SHA-512"]},
    "authorization": {"type": "acl"},
}
json.dump({"apiVersion": "streamhouse.io/v1alpha1", "kind": "StreamHouseCluster",
    "metadata": {"name": name, "labels": {"example.com/part": name}}, "spec": spec}, sys.stdout)' "$SECURE"
  cat <<YAML

---
apiVersion: streamhouse.io/v1alpha1
kind: Topic
metadata: {name: $SECURE_TOPIC, labels: {example.com/part: $SECURE}}
spec: {clusterRef: {name: $SECURE}, partitions: 3, deletionPolicy: Delete}
---
apiVersion: streamhouse.io/v1alpha1
kind: User
metadata: {name: writer, labels: {example.com/part: $SECURE}}
spec:
  clusterRef: {name: $SECURE}
  authentication: {type: scram}
  authorization: {acls: [{resource: {type: topic, name: $SECURE_TOPIC}, operations: [Read, Write, Describe]}]}
---
apiVersion: streamhouse.io/v1alpha1
kind: User
metadata: {name: stranger, labels: {example.com/part: $SECURE}}
spec: {clusterRef: {name: $SECURE}, authentication: {type: scram}}
YAML
}

# has_address USER: whether its Secret has the address for Kafka clients, which is known once the agent has one.
has_address() { secret_of "$1" librdkafka.conf | grep -q '^bootstrap\.servers='; }
secret_of() { in_sample get secret "$1" --output "go-template={{index .data \"$2\" | base64decode}}" 2>/dev/null; }

secure_cluster() {
  local name
  sql "CREATE ROLE $SECURE LOGIN PASSWORD '$SECURE'"
  sql "CREATE DATABASE $SECURE OWNER $SECURE"
  in_sample create secret generic "$SECURE-postgresql" \
    --from-literal="uri=postgres://$SECURE:$SECURE@postgresql.$SAMPLE_NAMESPACE.svc:5432/$SECURE" >/dev/null
  secure_certificate
  secure_manifests >"$WORK/secure.yaml"
  kubectl --namespace "$SAMPLE_NAMESPACE" apply -f "$WORK/secure.yaml" >/dev/null
  in_sample wait "streamhousecluster/$SECURE" --for=condition=Ready --timeout=180s >/dev/null
  in_sample wait "topic/$SECURE_TOPIC" user/writer user/stranger --for=condition=Ready --timeout=60s >/dev/null
  for name in writer stranger; do eventually 60 "the address in the Secret of the user $name" has_address "$name"; done
}

# users_inside NAME: in a pod with the Secrets of both users, one writes and reads, the other may not, and nobody can without credentials.
users_inside() {
  local name=$1
  {
    pod_head "$name"
    echo "  volumes: [{name: writer, secret: {secretName: writer}}, {name: stranger, secret: {secretName: stranger}}]"
    echo "  containers:"
    container client "$TOOLBOX_IMAGE"
    cat <<YAML
    args:
    - -c
    - |
      as() { cd "/users/\$1" && set -a && . ./streamhouse.env && set +a; }
      ( as writer && seq 1 100 | sed 's/^/$name-/' | streamhouse produce $SECURE_TOPIC &&
        streamhouse consume $SECURE_TOPIC --from-beginning --exit-at-end --format '%v\\n' | grep -c '^$name-' | sed 's/^/read /' )
      ( as stranger && ! echo 1 | streamhouse produce $SECURE_TOPIC ) 2>&1 | sed 's/^/stranger: /'
      ( as writer && unset STREAMHOUSE_USER STREAMHOUSE_PASSWORD && ! streamhouse topic list ) 2>&1 | sed 's/^/anonymous: /'
      echo done
      sleep 3600
    volumeMounts: [{name: writer, mountPath: /users/writer}, {name: stranger, mountPath: /users/stranger}]
YAML
  } | in_sample create -f - >/dev/null
  eventually 120 "the end of the client $name" client_printed 1 '^done$' "$name"
  in_sample logs "$name" >"$WORK/$name"
  grep -qx 'read 100' "$WORK/$name" || { cat "$WORK/$name" >&2; fail "the user writer cannot write and read in a pod"; }
  grep -q '^stranger: .*TOPIC_AUTHORIZATION_FAILED' "$WORK/$name" || { cat "$WORK/$name" >&2; fail "a user without rights is not refused"; }
  grep -q '^anonymous: .*SASL_AUTHENTICATION_FAILED' "$WORK/$name" || { cat "$WORK/$name" >&2; fail "a client without credentials is not refused"; }
  client_stop "$name"
}

# user_client COMMAND...: a client that is librdkafka, outside of the cluster.
user_client() { timeout 120 "$STREAMHOUSE_PYTHON" -B hack/kind/user_client.py "$@"; }

# unpack USER FOLDER: writes the files of its Secret.
unpack() {
  mkdir -p "$2"
  in_sample get secret "$1" --output json |
    python3 -c 'import base64, json, pathlib, sys
for name, text in json.load(sys.stdin)["data"].items(): pathlib.Path(sys.argv[1], name).write_bytes(base64.b64decode(text))' "$2"
}

# printed FILE PATTERN
printed() { grep -qE "$2" "$1"; }
password_is_new() { local now; now=$(secret_of writer password) && [ -n "$now" ] && [ "$now" != "$1" ]; }

# A password is replaced while a client produces that reads the Secret: every record is acknowledged, and the old password ends.
users_outside() {
  local before client log=$WORK/user-client begin
  unpack writer "$WORK/writer"
  user_client anonymous "$WORK/writer" || fail "a Kafka client without credentials is not refused"
  user_client produce "$WORK/writer-now" "$SECURE_TOPIC" "$SAMPLE_NAMESPACE" writer "$WORK/user-client-stop" >"$log" 2>&1 &
  client=$!
  eventually 60 "records of a Kafka client with a user" printed "$log" '^acknowledged [1-9]'
  before=$(secret_of writer password)
  begin=$SECONDS
  in_sample delete secret writer >/dev/null
  eventually 60 "another password of the user" password_is_new "$before"
  eventually 60 "records of a Kafka client with the new password" printed "$log" '^with other credentials: acknowledged [1-9]'
  user_client until-refused "$WORK/writer" "$SECURE_TOPIC" >"$WORK/user-old" 2>&1 ||
    { cat "$WORK/user-old" >&2; fail "the old password is not refused"; }
  touch "$WORK/user-client-stop"
  wait "$client" || { cat "$log" >&2; fail "requests failed while a password was replaced"; }
  note "users: $(grep " acknowledged, " "$log"); a password was replaced in $((SECONDS - begin)) s"
}

# A client that is connected is refused within seconds of the deletion of its user.
user_is_deleted() {
  local client log=$WORK/user-deleted begin
  unpack writer "$WORK/writer-last"
  user_client until-refused "$WORK/writer-last" "$SECURE_TOPIC" >"$log" 2>&1 &
  client=$!
  eventually 60 "a client's being connected" printed "$log" '^acknowledged'
  begin=$SECONDS
  in_sample delete user writer --timeout=30s >/dev/null
  wait "$client" || { cat "$log" >&2; fail "the user is deleted, and its client is not refused"; }
  [ $((SECONDS - begin)) -le 20 ] || fail "the user is deleted, and its client was refused only after $((SECONDS - begin)) s"
  note "users: access ended $((SECONDS - begin)) s after the deletion was requested"
}
