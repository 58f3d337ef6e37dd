#!/usr/bin/env bash
# A whole StreamHouse with one command, without Docker, as root: a real Kubernetes of one node on this machine, PostgreSQL and MinIO in
# it, the operator by its chart, a sample cluster and topics. Nothing outside the folder .streamhouse/cluster (or CLUSTER_DIR) is
# changed; hack/cluster-down.sh takes it away. Run it again at any time: what runs is left as it is. With Docker: hack/kind-up.sh.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-cluster.sh
. hack/lib-install.sh

usage() {
  cat <<'TEXT'
usage: hack/cluster-up.sh [--bare] [--no-build]

  --bare      the node alone, with nothing of StreamHouse
  --no-build  takes the programs in target/release as they are

CLUSTER_DIR chooses the folder (.streamhouse/cluster); CLUSTER_API_PORT the port of 127.0.0.1 where the API server answers, else a free
one is taken. Needs about 3 GiB of memory.
TEXT
}

BARE=false
BUILD=true
for option; do
  case $option in
    --help | -h) usage; exit 0 ;;
    --bare) BARE=true ;;
    --no-build) BUILD=false ;;
    *) usage >&2; fail "unknown option $option" ;;
  esac
done

# What does not need root. The second time, as root, all of it is there.
need kubernetes-node
if ! $BARE; then
  need minio
  if $BUILD; then build_programs; fi
fi
if $BARE; then as_root_again cluster-up.sh --bare; else as_root_again cluster-up.sh --no-build; fi

say "starting Kubernetes $KUBERNETES_VERSION in $CLUSTER_DIR"
cluster_start "$CLUSTER_DIR"
cluster_use "$CLUSTER_DIR"
if ! $BARE; then
  trap '[ $? = 0 ] || explain_failure' EXIT
  VERSION=$(workspace_version)
  say "images"
  cluster_load_streamhouse "$CLUSTER_DIR" "$VERSION"
  say "PostgreSQL and MinIO"
  install_dev_servers
  say "the operator"
  install_operator "$VERSION"
  say "the sample cluster and topics"
  install_samples
fi

say "the cluster is ready"
cat <<TEXT
export KUBECONFIG=$CLUSTER_DIR/kubeconfig
export PATH=$KUBERNETES_FOLDER:$KUBERNETES_TOOLS_FOLDER:\$PATH    # kubectl, helm
TEXT
if ! $BARE; then
  cat <<TEXT
kubectl get streamhouse --all-namespaces

# produce, and read it back
printf 'customer-1:two pounds of tea\n' | $(client_command "$VERSION" produce orders --key-separator :)
$(client_command "$VERSION" consume orders --from-beginning --exit-at-end)

# the agents' metrics; Prometheus, rules and dashboard for Grafana: docs/observability.md
kubectl get --raw /api/v1/namespaces/$SAMPLE_NAMESPACE/services/streamhouse-agents:http/proxy/metrics
TEXT
fi
printf '\nLogs are in %s/log. hack/cluster-down.sh takes all of it away.\n' "$CLUSTER_DIR"
