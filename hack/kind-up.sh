#!/usr/bin/env bash
# Creates a complete StreamHouse on kind with one command: a Kubernetes cluster, Prometheus and Grafana, PostgreSQL and MinIO, the operator
# by its chart, a sample cluster and topics. Needs Docker; without it use hack/cluster-up.sh. Can be run again at any time.
# hack/kind-down.sh removes everything.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-install.sh

usage() {
  cat <<'TEXT'
usage: hack/kind-up.sh [--name NAME] [--no-monitoring] [--no-build] [--dry-run]

  --name NAME       the name of the kind cluster (default: streamhouse)
  --no-monitoring   does not install kube-prometheus-stack (Prometheus and Grafana)
  --no-build        uses Docker's existing images of this version
  --dry-run         prints the commands without running them

Needs docker, kind 0.29 or later, kubectl, helm, about 6 GiB of memory, and internet access for images and one chart.
TEXT
}

NAME=streamhouse
MONITORING=true
BUILD=true
DRY_RUN=false
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --name) [ $# -ge 2 ] || fail "--name needs a value"; NAME=$2; shift 2 ;;
    --no-monitoring) MONITORING=false; shift ;;
    --no-build) BUILD=false; shift ;;
    --dry-run) DRY_RUN=true; shift ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
done
VERSION=$(workspace_version)
MONITORING_RELEASE=kube-prometheus-stack
KUBECONFIG=${KIND_KUBECONFIG:-$PWD/.streamhouse/kind-$NAME.kubeconfig}
export KUBECONFIG

need_kind_tools() {
  local program
  for program in docker kind kubectl helm; do
    have "$program" || fail "$program is missing: install it (https://kind.sigs.k8s.io/docs/user/quick-start says how), or use hack/cluster-up.sh, which needs no Docker"
  done
  docker info >/dev/null 2>&1 || fail "Docker does not answer: start it, or use hack/cluster-up.sh, which needs none"
}

kind_cluster() {
  mkdir -p "$(dirname "$KUBECONFIG")"
  if ! $DRY_RUN && kind get clusters 2>/dev/null | grep -qx "$NAME"; then
    note "the cluster $NAME is there"
    run kind export kubeconfig --name "$NAME"
  else
    run kind create cluster --name "$NAME" --wait 180s
  fi
}

images() {
  local target
  for target in agent operator cli; do
    if $BUILD; then
      run docker build --file docker/Dockerfile --target "$target" --build-arg "VERSION=$VERSION" --tag "ghcr.io/streamhouse/streamhouse-$target:$VERSION" .
    fi
    run kind load docker-image --name "$NAME" "ghcr.io/streamhouse/streamhouse-$target:$VERSION"
  done
}

monitoring() {
  run helm upgrade --install "$MONITORING_RELEASE" kube-prometheus-stack --repo https://prometheus-community.github.io/helm-charts \
    --version "$KUBE_PROMETHEUS_STACK_VERSION" --namespace monitoring --create-namespace --wait --timeout 600s \
    --set grafana.adminPassword=admin,grafana.sidecar.dashboards.searchNamespace=ALL \
    --set grafana.sidecar.dashboards.folderAnnotation=grafana_folder,grafana.sidecar.dashboards.provider.foldersFromFilesStructure=true
}

# The sample does not set these fields, so applying it again does not reset them.
sample_monitoring() {
  local labels="{\"release\":\"$MONITORING_RELEASE\"}"
  run kubectl --namespace "$SAMPLE_NAMESPACE" patch streamhousecluster streamhouse --type merge --field-manager kind-up --patch \
    "{\"spec\":{\"monitoring\":{\"serviceMonitor\":{\"enabled\":true,\"interval\":\"15s\",\"labels\":$labels},\"prometheusRule\":{\"enabled\":true,\"labels\":$labels},\"dashboards\":{\"enabled\":true}}}}"
}

$DRY_RUN || need_kind_tools
say "kind cluster $NAME"
kind_cluster
if ! $DRY_RUN; then trap '[ $? = 0 ] || explain_failure' EXIT; fi
say "images"
images
options=()
if $MONITORING; then
  say "Prometheus and Grafana"
  monitoring
  for object in serviceMonitor prometheusRule; do
    options+=(--set "monitoring.$object.enabled=true,monitoring.$object.labels.release=$MONITORING_RELEASE")
  done
fi
say "PostgreSQL and MinIO"
install_dev_servers
say "the operator"
install_operator "$VERSION" "${options[@]}"
say "the sample cluster and topics"
install_samples
! $MONITORING || sample_monitoring
run helm test streamhouse-operator --namespace "$OPERATOR_NAMESPACE"

say "what next"
cat <<TEXT
export KUBECONFIG=$KUBECONFIG
kubectl get streamhouse --all-namespaces

# produce, and read it back
printf 'customer-1:two pounds of tea\n' | $(client_command "$VERSION" produce orders --key-separator :)
$(client_command "$VERSION" consume orders --from-beginning --exit-at-end)
TEXT
if $MONITORING; then
  cat <<TEXT

# Grafana, http://localhost:3000 (admin, admin): the dashboard is in the folder StreamHouse
kubectl --namespace monitoring port-forward service/$MONITORING_RELEASE-grafana 3000:80
TEXT
fi
printf '\nhack/kind-down.sh takes all of it away.\n'
