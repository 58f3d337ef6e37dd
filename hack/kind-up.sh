#!/usr/bin/env bash
# Creates a complete StreamHouse on kind with one command: a Kubernetes cluster, Prometheus and Grafana, PostgreSQL and MinIO, the operator
# by its chart, a sample cluster and topics. Run it again after a change of the code: only what has changed is rolled out.
# hack/kind-down.sh removes everything.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-install.sh
. hack/lib-kind.sh

usage() {
  cat <<'TEXT'
usage: hack/kind-up.sh [--name NAME] [--nodes COUNT] [--no-monitoring] [--local] [--no-build] [--tag TAG] [--dry-run]

  --name NAME       the name of the kind cluster (default: streamhouse)
  --nodes COUNT     its nodes, when it is created (default: 1)
  --no-monitoring   does not install kube-prometheus-stack (Prometheus and Grafana)
  --local           makes images of programs of this Linux machine: cargo's in target/release, PostgreSQL and MinIO. Builds nothing in
                    Docker and pulls no image but kind's own
  --no-build        compiles nothing: uses the images of the last run, or with --local the programs in target/release
  --tag TAG         the images' tag (default: VERSION-ID, where ID changes with an image's content)
  --dry-run         prints the commands without running them

Needs docker 20.10, kind 0.29, kubectl 1.31 and Helm 3.12 or later; 6 GiB of memory, 3 without monitoring; without --local internet access.
Variables: KIND_NODE_IMAGE, and the ports of localhost KIND_CLIENT_PORT (50052), KIND_CONSOLE_PORT (18080), KIND_PROMETHEUS_PORT (19090) and
KIND_GRAFANA_PORT (13000).
TEXT
}

NAME=streamhouse
NODES=1
MONITORING=true
IMAGES_FROM=docker
BUILD=true
TAG=
DRY_RUN=false
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --name | --nodes | --tag)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case $1 in --name) NAME=$2 ;; --nodes) NODES=$2 ;; --tag) TAG=$2 ;; esac
      shift 2
      ;;
    --no-monitoring) MONITORING=false; shift ;;
    --no-build) BUILD=false; shift ;;
    --local) IMAGES_FROM=local; shift ;;
    --dry-run) DRY_RUN=true; shift ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
done
[[ $NODES =~ ^[1-9]$ ]] || fail "--nodes needs a number from 1 to 9"
VERSION=$(workspace_version)
MONITORING_RELEASE=kube-prometheus-stack
KUBECONFIG=${KIND_KUBECONFIG:-$PWD/.streamhouse/kind-$NAME.kubeconfig}
export KUBECONFIG
# Ports of localhost. The nodes' ports that they lead to are fixed.
CLIENT_PORT=${KIND_CLIENT_PORT:-50052}
CONSOLE_PORT=${KIND_CONSOLE_PORT:-18080}
PROMETHEUS_PORT=${KIND_PROMETHEUS_PORT:-19090}
GRAFANA_PORT=${KIND_GRAFANA_PORT:-13000}

# step ESTIMATE TITLE: the heading of a step, with how long it takes.
STEP=0
STEPS=5
if $MONITORING; then STEPS=6; fi
STEP_BEGIN=0
step_done() { [ "$STEP" = 0 ] || $DRY_RUN || note "done after $((SECONDS - STEP_BEGIN)) s"; }
step() {
  step_done
  STEP=$((STEP + 1))
  STEP_BEGIN=$SECONDS
  say "[$STEP/$STEPS] $2 ($1)"
}

create_cluster() {
  mkdir -p "$(dirname "$KUBECONFIG")"
  if ! $DRY_RUN && kind get clusters 2>/dev/null | grep -qx "$NAME"; then
    note "the cluster $NAME is there; hack/kind-down.sh removes it"
    run kind export kubeconfig --name "$NAME"
    return
  fi
  $DRY_RUN || require_free_ports
  kind_config >"$(dirname "$KUBECONFIG")/kind-$NAME.yaml"
  run kind create cluster --name "$NAME" --wait 180s --config "$(dirname "$KUBECONFIG")/kind-$NAME.yaml" ${KIND_NODE_IMAGE:+--image "$KIND_NODE_IMAGE"}
}

build_estimate() {
  case $IMAGES_FROM,$BUILD in
    *,false) echo "half a minute" ;;
    local,*) echo "under a minute, longer if cargo has to compile" ;;
    *) echo "10 to 30 minutes the first time: everything is compiled with full optimisation; minutes after a change" ;;
  esac
}

monitoring() {
  run helm upgrade --install "$MONITORING_RELEASE" kube-prometheus-stack --repo https://prometheus-community.github.io/helm-charts \
    --version "$KUBE_PROMETHEUS_STACK_VERSION" --namespace monitoring --create-namespace --wait --timeout 600s \
    --set "grafana.adminPassword=admin,grafana.service.type=NodePort,grafana.service.nodePort=$GRAFANA_NODE_PORT" \
    --set "prometheus.service.type=NodePort,prometheus.service.nodePort=$PROMETHEUS_NODE_PORT" \
    --set grafana.sidecar.dashboards.searchNamespace=ALL,grafana.sidecar.dashboards.folderAnnotation=grafana_folder \
    --set grafana.sidecar.dashboards.provider.foldersFromFilesStructure=true
}

# What the sample cluster has besides its file: the agents' image of this run, the console, and monitoring.
sample_patch() {
  local labels="{\"release\":\"$MONITORING_RELEASE\"}" monitoring=
  if $MONITORING; then
    monitoring=",\"monitoring\":{\"serviceMonitor\":{\"enabled\":true,\"interval\":\"15s\",\"labels\":$labels},\"prometheusRule\":{\"enabled\":true,\"labels\":$labels},\"dashboards\":{\"enabled\":true}}"
  fi
  printf '{"spec":{"image":{"tag":"%s"},"agents":{"settings":{"console":true}}%s}}' "${TAGS[agent]}" "$monitoring"
}

$DRY_RUN || require_tools
step "about 30 seconds, and what pulling kind's node image takes the first time" "the kind cluster $NAME"
create_cluster
if ! $DRY_RUN; then trap '[ $? = 0 ] || explain_failure' EXIT; fi
step "$(build_estimate)" "images"
declare -A TAGS=()
case $IMAGES_FROM,$BUILD in local,*) build_locally ;; docker,true) build_with_docker ;; esac
tag_and_load
options=()
if $MONITORING; then
  step "2 to 5 minutes" "Prometheus and Grafana"
  monitoring
  for object in serviceMonitor prometheusRule; do
    options+=(--set "monitoring.$object.enabled=true,monitoring.$object.labels.release=$MONITORING_RELEASE")
  done
fi
step "a minute, if their images have to be pulled" "PostgreSQL and MinIO"
install_dev_servers
step "10 seconds" "the operator"
install_operator "${TAGS[operator]}" "${options[@]}"
step "20 seconds; longer if agents are rolled" "the sample cluster and topics"
install_samples "$(sample_patch)"
publish_ports
run helm test streamhouse-operator --namespace "$OPERATOR_NAMESPACE"
step_done

say "what next"
cat <<TEXT
export KUBECONFIG=$KUBECONFIG
kubectl get streamhouse --all-namespaces

# produce, and read it back, from here (cargo build --release -p streamhouse-cli makes target/release/streamhouse)
printf 'customer-1:two pounds of tea\n' | streamhouse --bootstrap localhost:$CLIENT_PORT produce orders --key-separator :
streamhouse --bootstrap localhost:$CLIENT_PORT consume orders --from-beginning --exit-at-end

# the same in the cluster
$(client_command "${TAGS[cli]}" consume orders --from-beginning --exit-at-end)

# the console of an agent
http://localhost:$CONSOLE_PORT/console/
TEXT
if $MONITORING; then
  cat <<TEXT

# Grafana (admin, admin), whose folder StreamHouse has the dashboard; and Prometheus
http://localhost:$GRAFANA_PORT
http://localhost:$PROMETHEUS_PORT
TEXT
fi
printf '\nAfter a change of the code run hack/kind-up.sh again. hack/kind-down.sh takes all of it away.\n'
