# shellcheck shell=bash
# Installs StreamHouse on a Kubernetes cluster: PostgreSQL and MinIO for trying out, the operator by its chart, the sample cluster and
# topics. Sourced after hack/lib.sh by the scripts that start clusters. Uses the kubectl and helm in PATH and the cluster in KUBECONFIG;
# every step can be repeated. POSTGRESQL_IMAGE and MINIO_IMAGE replace the images in config/dev for a cluster that cannot pull them.

OPERATOR_NAMESPACE=streamhouse-system
SAMPLE_NAMESPACE=streamhouse
INSTALL_TIMEOUT=${INSTALL_TIMEOUT:-300s}

# run COMMAND...: runs the command, or prints it if DRY_RUN is true.
run() {
  if [ "${DRY_RUN:-false}" = true ]; then
    printf '+'
    printf ' %q' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# apply_text WHAT: applies the manifests on standard input, in the namespace NAMESPACE if they name none.
apply_text() {
  if [ "${DRY_RUN:-false}" = true ]; then
    cat >/dev/null
    printf '+ kubectl apply --server-side -f - # %s\n' "$1"
  else
    kubectl ${NAMESPACE:+--namespace "$NAMESPACE"} apply --server-side --force-conflicts -f -
  fi
}

# Installs PostgreSQL and MinIO and waits until they are ready.
install_dev_servers() {
  local name
  hack/images/dev-manifests.sh | apply_text config/dev
  for name in postgresql minio; do
    run kubectl --namespace "$SAMPLE_NAMESPACE" rollout status "statefulset/$name" --timeout="$INSTALL_TIMEOUT"
  done
}

# install_operator TAG OPTION...: installs the chart with images of this tag and further options of helm.
install_operator() {
  local tag=$1
  shift
  run helm upgrade --install streamhouse-operator charts/streamhouse-operator --namespace "$OPERATOR_NAMESPACE" --create-namespace \
    --set "image.tag=$tag,tests.namespace=$SAMPLE_NAMESPACE,tests.cluster=streamhouse" --wait --timeout "$INSTALL_TIMEOUT" "$@"
}

# install_samples [PATCH]: applies the sample cluster, with a merge patch if there is one, its Secrets and its topics, and waits until they
# are ready.
install_samples() {
  local in_namespace=(kubectl --namespace "$SAMPLE_NAMESPACE") patch=${1:-}
  [ -n "$patch" ] || patch="{}"
  run "${in_namespace[@]}" apply --server-side --force-conflicts -f config/samples/secrets.yaml
  # Before it is applied, because the agents would begin with another image.
  { ${DRY_RUN:-false} || kubectl patch --local --type merge --patch "$patch" --output yaml -f config/samples/streamhousecluster.yaml; } |
    NAMESPACE=$SAMPLE_NAMESPACE apply_text "config/samples/streamhousecluster.yaml with $patch"
  run "${in_namespace[@]}" wait streamhousecluster/streamhouse --for=condition=Ready --timeout="$INSTALL_TIMEOUT"
  run "${in_namespace[@]}" rollout status deployment/streamhouse-agent --timeout="$INSTALL_TIMEOUT"
  run "${in_namespace[@]}" apply --server-side --force-conflicts -f config/samples/topics.yaml
  run "${in_namespace[@]}" wait topic --all --for=condition=Ready --timeout="$INSTALL_TIMEOUT"
  run "${in_namespace[@]}" get streamhouseclusters,topics
}

# explain_failure: prints pods, events, logs and resources.
explain_failure() {
  set +e
  local namespace pod
  say "what the cluster says"
  for namespace in "$OPERATOR_NAMESPACE" "$SAMPLE_NAMESPACE"; do
    kubectl --namespace "$namespace" get pods -o wide
    kubectl --namespace "$namespace" get events --sort-by=.lastTimestamp | tail -n 30
    for pod in $(kubectl --namespace "$namespace" get pods -o name); do
      # The log of a container before its last restart, if there is one.
      kubectl --namespace "$namespace" logs "$pod" --all-containers --prefix --previous --tail=30 2>/dev/null
      kubectl --namespace "$namespace" logs "$pod" --all-containers --prefix --tail=30
    done
  done
  kubectl get streamhouseclusters,topics,users --all-namespaces -o yaml
  kubectl --namespace "$OPERATOR_NAMESPACE" logs deployment/streamhouse-operator --tail=100
} 2>&1

# client_command TAG ARGUMENT...: prints a command that runs the command line in the cluster. Agents advertise their pods' addresses, which
# a client outside the cluster cannot reach.
client_command() {
  local tag=$1
  shift
  printf 'kubectl run client --rm -i --restart=Never --image=ghcr.io/streamhouse/streamhouse-cli:%s --env=STREAMHOUSE_BOOTSTRAP=%s -- %s\n' \
    "$tag" "http://streamhouse-agents.$SAMPLE_NAMESPACE.svc:50051" "$*"
}
