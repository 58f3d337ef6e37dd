#!/usr/bin/env bash
# Tests the node of hack/cluster-up.sh: it runs pods, probes, Services, names, exec and logs like any other, and nothing of it is left
# when it has been stopped. In a folder of its own, beside any cluster that runs. When something fails, it prints what explains it.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
CLUSTER_DIR=$(mktemp -d)/cluster
. hack/lib-cluster.sh

kubectl() { cluster_kubectl "$CLUSTER_DIR" "$@"; }

finish() {
  local status=$?
  if [ "$status" != 0 ] && [ -e "$CLUSTER_DIR/pki" ]; then cluster_logs "$CLUSTER_DIR"; fi
  cluster_stop "$CLUSTER_DIR" && rm -rf "$(dirname "$CLUSTER_DIR")"
}

# expect WHAT WANTED COMMAND...: the command's output must be that, half a minute later at the latest: what is written to the API
# reaches the node's programs in their own time.
expect() {
  local what=$1 wanted=$2 got end=$((SECONDS + 30))
  shift 2
  until got=$("$@" 2>&1) && [ "$got" = "$wanted" ]; do
    [ "$SECONDS" -lt "$end" ] || fail "$what: expected '$wanted', got '$got'"
    sleep 0.2
  done
  note "$what: ok"
}

workload() {
  cat <<'YAML'
apiVersion: v1
kind: Namespace
metadata:
  name: test
  labels: {pod-security.kubernetes.io/enforce: restricted}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: test}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: web
        image: streamhouse.local/toolbox:1
        args: [-c, 'hostname > /tmp/index.html; echo started; exec httpd -f -p 8080 -h /tmp']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
        volumeMounts: [{name: tmp, mountPath: /tmp}]
      volumes: [{name: tmp, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: test}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
# A program of this machine that runs in the cluster's network, as a Service.
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: test}
spec:
  ports: [{port: 80, targetPort: 7000}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: outside
  namespace: test
  labels: {kubernetes.io/service-name: outside}
addressType: IPv4
ports: [{port: 7000}]
endpoints: [{addresses: [192.168.66.1]}]
YAML
}

in_pod() { kubectl -n test exec deploy/web -- "$@"; }

# Through the Service every pod is reached, whoever asks.
reached() {
  local try
  for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "$@" || echo "try $try failed"; done | sort -u
}

pods() { kubectl -n test get pods -l app=web -o name | sed 's|pod/||' | sort; }

check_workload() {
  local gone
  workload | kubectl apply -f - >/dev/null
  cluster_service "$CLUSTER_DIR" outside socat TCP-LISTEN:7000,fork,reuseaddr SYSTEM:'read line && echo from outside'
  kubectl -n test rollout status deployment/web --timeout=60s >/dev/null
  expect "logs" started kubectl -n test logs "$(pods | head -n 1)"
  expect "exec" 65532 in_pod id -u
  expect "a name becomes the Service's address" "$(kubectl -n test get service web -o 'jsonpath={.spec.clusterIP}')" \
    in_pod sh -c "nslookup web.test.svc.cluster.local | sed -n 's/^Address: //p' | grep -v :53"
  expect "a Service reaches all pods, also its own" "$(pods)" reached in_pod wget -qO- http://web
  expect "and from outside of pods" "$(pods)" reached cluster_exec "$CLUSTER_DIR" curl --noproxy '*' -s --max-time 5 \
    "http://$(kubectl -n test get service web -o 'jsonpath={.spec.clusterIP}')"
  expect "a Service of a program outside" "from outside" in_pod sh -c 'echo hello | nc outside 80'
  gone=$(pods | head -n 1)
  kubectl -n test delete pod "$gone" --grace-period=0 --force >/dev/null 2>&1
  expect "a pod that is deleted is replaced" "2" kubectl -n test get deployment web -o 'jsonpath={.status.availableReplicas}'
  [[ $(pods) != *"$gone"* ]] || fail "the pod $gone is still there"
  kubectl delete namespace test --timeout=60s >/dev/null
}

need kubernetes-node
as_root_again test-node.sh
trap finish EXIT
say "a node in $CLUSTER_DIR"
cluster_start "$CLUSTER_DIR"
first=$(first_process "$CLUSTER_DIR")
CLUSTER_DIR=$CLUSTER_DIR hack/cluster-up.sh --bare >/dev/null
[ "$(first_process "$CLUSTER_DIR")" = "$first" ] || fail "hack/cluster-up.sh started again what ran"
toolbox_archive "$(dirname "$CLUSTER_DIR")/toolbox.tar"
cluster_load_image "$CLUSTER_DIR" "$(dirname "$CLUSTER_DIR")/toolbox.tar"
check_workload
say "the end"
inside=$(cluster_processes "$CLUSTER_DIR" | wc -l)
[ "$inside" -gt 10 ] || fail "only $inside processes are seen in the cluster: what is left would not be seen either"
cluster_stop "$CLUSTER_DIR"
expect "nothing is left" "" cluster_leftovers "$CLUSTER_DIR"
