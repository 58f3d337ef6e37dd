#!/usr/bin/env bash
# Starts a real Kubernetes of one node on this machine, without Docker, as root. Nothing outside the folder .streamhouse/cluster (or
# CLUSTER_DIR) is changed; hack/cluster-down.sh removes it. Run it again at any time: what runs is left as it is.
#
# CLUSTER_API_PORT chooses the port of 127.0.0.1 where the API server answers; else a free one is taken.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-cluster.sh

case "$#:${1:-}" in
  0: | 1:--bare) ;;
  *) fail "usage: hack/cluster-up.sh [--bare]   (--bare: the node alone)" ;;
esac

need_build_tools
need_kubernetes_node
as_root_again cluster-up.sh "$@"
say "starting Kubernetes $KUBERNETES_VERSION in $CLUSTER_DIR"
cluster_start "$CLUSTER_DIR"

say "the cluster is ready"
note "export KUBECONFIG=$CLUSTER_DIR/kubeconfig"
note "export PATH=$KUBERNETES_FOLDER:$KUBERNETES_TOOLS_FOLDER:\$PATH    # kubectl, helm"
note "logs in $CLUSTER_DIR/log; hack/cluster-down.sh stops it"
