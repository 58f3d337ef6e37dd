# shellcheck shell=bash
# Installs the programs of a real Kubernetes, for tests and for a cluster of one node. Sourced by hack/lib.sh. Kubernetes and related tools
# are built from source, once per version, from the Go modules in hack/kubernetes; etcd and the container runtime are Debian's packages,
# which are not started as services of the machine.

KUBERNETES_FOLDER="$CACHE/kubernetes-$KUBERNETES_VERSION"
KUBERNETES_API=(kube-apiserver kubectl kube-controller-manager)
KUBERNETES_NODE=(kube-scheduler kubelet kube-proxy)
# Their versions are in a go.mod, so the folder's name contains a digest of the build inputs.
KUBERNETES_TOOLS_FOLDER="$CACHE/kubernetes-tools-$(cat hack/kubernetes/tools/go.* hack/kubernetes/tools/*/*.go | sha256sum | cut -c1-12)"
PROMETHEUS_OPERATOR_FOLDER="$CACHE/prometheus-operator-$PROMETHEUS_OPERATOR_VERSION"
KUBERNETES_DISCOVERY_FOLDER="$CACHE/kubernetes-discovery-$(cat hack/kubernetes/discovery/* | sha256sum | cut -c1-12)"

# all_in FOLDER PROGRAM...: whether the folder has all of these programs.
all_in() {
  local folder=$1 program
  shift
  for program in "$@"; do [ -x "$folder/$program" ] || return 1; done
}

# require_version FOLDER MODULE VERSION: fails if the folder's go.mod pins another version.
require_version() {
  grep -qE "^(require )?[[:space:]]*$2 $3\$" "$1/go.mod" || fail "hack/versions.sh wants $2 $3, and $1/go.mod another version: make them equal"
}

# go_build MODULE FOLDER LDFLAGS PACKAGE...: builds programs of a module; the folder appears once all are built.
go_build() {
  local module=$1 folder=$2 flags=$3 new go
  shift 3
  go=$(go_command)
  new="$folder.new"
  rm -rf "$new" && mkdir -p "$new" "$folder"
  (cd "$module" && quietly env CGO_ENABLED=0 "$go" build -trimpath -buildvcs=false -ldflags "-s -w $flags" -o "$new/" "$@") ||
    { rm -rf "$new"; return 1; }
  mv "$new"/* "$folder/" && rmdir "$new"
}

# build_kubernetes WHAT MINUTES PROGRAM...
build_kubernetes() {
  local what=$1 minutes=$2 version=k8s.io/component-base/version
  shift 2
  all_in "$KUBERNETES_FOLDER" "$@" && return
  require_version hack/kubernetes k8s.io/kubernetes "$KUBERNETES_VERSION"
  say "building $what of Kubernetes $KUBERNETES_VERSION from source, once (about $minutes minutes): $*"
  go_build hack/kubernetes "$KUBERNETES_FOLDER" \
    "-X $version.gitVersion=$KUBERNETES_VERSION -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION")" \
    "${@/#/k8s.io/kubernetes/cmd/}" || fail "Kubernetes could not be built"
}

build_kubernetes_tools() {
  all_in "$KUBERNETES_TOOLS_FOLDER" helm kubeconform controller-gen coredns && return
  say "building helm, kubeconform, controller-gen and CoreDNS from source, once (about 3 minutes)"
  go_build hack/kubernetes/tools "$KUBERNETES_TOOLS_FOLDER" "" helm.sh/helm/v3/cmd/helm github.com/yannh/kubeconform/cmd/kubeconform \
    sigs.k8s.io/controller-tools/cmd/controller-gen ./coredns || fail "the tools of Kubernetes could not be built"
}

# Builds Kubernetes' pause program, the sandbox of every pod.
build_pause() {
  local source
  [ -x "$KUBERNETES_FOLDER/pause" ] && return
  source=$(cd hack/kubernetes && "$(go_command)" list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c
  cc -Os -static -DVERSION=3.10 -o "$KUBERNETES_FOLDER/pause.new" "$source" || fail "pause could not be built: is there a static C library?"
  mv "$KUBERNETES_FOLDER/pause.new" "$KUBERNETES_FOLDER/pause"
}

build_prometheus_operator() {
  local folder=$PROMETHEUS_OPERATOR_FOLDER
  all_in "$folder" operator && [ -d "$folder/crds" ] && return
  require_version hack/kubernetes/monitoring github.com/prometheus-operator/prometheus-operator "$PROMETHEUS_OPERATOR_VERSION"
  say "building the Prometheus Operator $PROMETHEUS_OPERATOR_VERSION and its resource definitions from source, once (about 2 minutes)"
  go_build hack/kubernetes/monitoring "$folder" "-X github.com/prometheus/common/version.Version=${PROMETHEUS_OPERATOR_VERSION#v}" \
    github.com/prometheus-operator/prometheus-operator/cmd/operator || fail "the Prometheus Operator could not be built"
  (cd hack/kubernetes/monitoring && quietly "$KUBERNETES_TOOLS_FOLDER/controller-gen" crd:crdVersions=v1 \
    paths=github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1 "output:dir=$folder/crds.new") ||
    fail "the resource definitions of the Prometheus Operator could not be made"
  mv "$folder/crds.new" "$folder/crds"
}

# Builds a program from Prometheus' package for discovery in Kubernetes, which Debian's Prometheus lacks.
build_kubernetes_discovery() {
  all_in "$KUBERNETES_DISCOVERY_FOLDER" discovery && return
  say "building the discovery of Prometheus' targets in Kubernetes from source, once (about a minute)"
  go_build hack/kubernetes/discovery "$KUBERNETES_DISCOVERY_FOLDER" "" . || fail "the discovery of targets could not be built"
}

# Installs etcd, kube-apiserver, kubectl and kube-controller-manager, for the tests of the operator.
need_kubernetes_api() {
  have etcd || install_servers etcd-server
  exclusively build_kubernetes "the API server" 6 "${KUBERNETES_API[@]}"
}

# Installs everything that runs pods on one node, helm and kubeconform.
need_kubernetes_node() {
  local missing=()
  need_kubernetes_api
  { have containerd && have ctr; } || missing+=(containerd)
  have runc || missing+=(runc)
  [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || missing+=(containernetworking-plugins)
  have iptables || missing+=(iptables)
  have conntrack || missing+=(conntrack)
  have ip || missing+=(iproute2)
  have socat || missing+=(socat)
  have openssl || missing+=(openssl)
  { have unshare && have nsenter && have flock; } || missing+=(util-linux)
  { have mount && have umount; } || missing+=(mount)
  [ ${#missing[@]} = 0 ] || install_servers "${missing[@]}"
  exclusively build_kubernetes "the node" 2 "${KUBERNETES_NODE[@]}"
  exclusively build_pause
  need_kubernetes_tools
}

# Installs helm, kubeconform, controller-gen and coredns.
need_kubernetes_tools() {
  exclusively build_kubernetes_tools
  export STREAMHOUSE_HELM="$KUBERNETES_TOOLS_FOLDER/helm"
}

# Installs the Prometheus Operator, with its CRDs in the folder crds beside it.
need_prometheus_operator() {
  need_kubernetes_tools
  exclusively build_prometheus_operator
}

# Installs what a Prometheus on the node needs: the Prometheus Operator and the discovery of targets.
need_prometheus_on_the_node() {
  need_prometheus_operator
  exclusively build_kubernetes_discovery
}
