#!/usr/bin/env bash
# Checks the operator's chart and the manifests in config/: helm lint; every way to install the chart, rendered and validated strictly
# against the schemas of the tested Kubernetes version; values that must be refused; copies that must be equal; the health check for
# Argo CD. Needs no cluster.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

CHART=charts/streamhouse-operator
need kubernetes-schemas dashboard-python
PATH="$KUBERNETES_FOLDER:$KUBERNETES_TOOLS_FOLDER:$PATH"
KUBE_VERSION=(--kube-version "${KUBERNETES_VERSION#v}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# as_json FILE: prints objects as JSON, one after the other, without a server.
as_json() { KUBECONFIG=/dev/null kubectl annotate --local --overwrite -f "$1" -o json checked-; }

# render NAME OPTION...: renders the chart with these options into $folder/NAME.yaml.
render() {
  local name=$1
  shift
  helm lint "$CHART" "${KUBE_VERSION[@]}" --quiet --strict "$@" >"$folder/lint" 2>&1 || { cat "$folder/lint" >&2; fail "helm lint, $name"; }
  template "$name" "$@"
}
# template NAME OPTION...: the same without helm lint, which knows no other APIs.
template() {
  helm template streamhouse-operator "$CHART" "${KUBE_VERSION[@]}" --namespace streamhouse-system "${@:2}" >"$folder/$1.yaml" ||
    fail "the chart cannot be rendered: $1"
}

# conform WHAT FILE...: validates manifests against the schemas.
conform() {
  local what=$1
  shift
  kubeconform -strict -schema-location "$SCHEMAS/{{ .ResourceKind }}{{ .KindSuffix }}.json" "$@" >"$folder/conform" 2>&1 ||
    { cat "$folder/conform" >&2; fail "$what: not what Kubernetes $KUBERNETES_VERSION knows"; }
  note "conforms: $what"
}

# refused TEXT OPTION...: the chart must not be rendered with these options, and the message must have the text.
refused() {
  local text=$1
  shift
  if helm template x "$CHART" "${KUBE_VERSION[@]}" "$@" >/dev/null 2>"$folder/refused"; then fail "the chart takes $*"; fi
  grep -qF -- "$text" "$folder/refused" || { cat "$folder/refused" >&2; fail "the chart refuses $* without saying: $text"; }
}

# kinds FILE KIND: prints the number of objects of a kind.
kinds() { grep -c "^kind: $2\$" "$1" || true; }

say "versions and copies"
version=$(workspace_version)
for key in version appVersion; do
  grep -qx "$key: $version" "$CHART/Chart.yaml" || fail "$CHART/Chart.yaml: $key is not $version, as in Cargo.toml"
done
hack/sync-chart.sh --check

say "renderings"
render default
render ha -f "$CHART/values-ha.yaml"
render namespaced --set 'watchNamespaces={orders,billing}'
render monitoring --set monitoring.serviceMonitor.enabled=true,monitoring.serviceMonitor.interval=30s \
  --set monitoring.serviceMonitor.labels.release=prometheus,monitoring.serviceMonitor.namespace=monitoring \
  --set monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.labels.release=prometheus \
  --set 'monitoring.prometheusRule.disabledAlerts={OperatorDriftRecurring,HighCPUUsage},monitoring.prometheusRule.nodes=true' \
  --set networkPolicy.enabled=true,networkPolicy.monitoring[0].namespaceSelector.matchLabels.name=monitoring
render without-clients --set monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.unlabelledClients=false
render alerts --set monitoring.prometheusRule.enabled=true
render without-crds --set crds.install=false
render crds-that-go --set crds.keep=false
render image --set image.registry=registry.example.com:5000,image.repository=mirror/operator,image.tag=1.2.3 \
  --set image.digest=sha256:"$(printf 'a%.0s' {1..64})" --set 'imagePullSecrets[0].name=registry' \
  --set agentImage.registry=registry.example.com:5000,agentImage.repository=mirror/agent
render bare --set rbac.create=false,serviceAccount.create=false,serviceAccount.name=mine,tests.enabled=false,podDisruptionBudget.enabled=true
render openshift --set openshift=true
template on-openshift --api-versions security.openshift.io/v1
template not-openshift --api-versions security.openshift.io/v1 --set openshift=false
render monitored-elsewhere --set 'watchNamespaces={orders,monitoring},monitoringNamespaces={monitoring}' --set clusterDomain=k8s.example.com
render test-cluster --set tests.cluster=streamhouse,tests.namespace=streamhouse,leaderElection.enabled=false
for name in default ha namespaced monitoring alerts without-crds crds-that-go image bare openshift on-openshift not-openshift \
  monitored-elsewhere test-cluster; do
  conform "the chart, $name" "$folder/$name.yaml"
done
render wrong --set securityContext.readOnlyRootFileSystem=true
if (conform "the chart with a field that no container has" "$folder/wrong.yaml") >/dev/null 2>&1; then fail "the schemas take unknown fields"; fi
[ "$(kinds "$folder/without-crds.yaml" CustomResourceDefinition)" = 0 ] || fail "crds.install=false brings definitions"
[ "$(kinds "$folder/bare.yaml" ClusterRole)$(kinds "$folder/bare.yaml" ServiceAccount)$(kinds "$folder/bare.yaml" Pod)" = 000 ] ||
  fail "rbac, serviceAccount and tests are switched off, and are there"
[ "$(kinds "$folder/default.yaml" ServiceMonitor)$(kinds "$folder/default.yaml" NetworkPolicy)" = 00 ] ||
  fail "what has to be asked for is there by default"
grep -q 'image: "registry.example.com:5000/mirror/operator:1.2.3@sha256:aaa' "$folder/image.yaml" || fail "the image's name is put together wrongly"
if grep -qE 'alert: (OperatorDriftRecurring|HighCPUUsage)' "$folder/monitoring.yaml"; then fail "a disabled alert is there"; fi
for name in OperatorNoLeader HighMemoryUsage DiskSpaceLow; do
  grep -q "alert: $name\$" "$folder/monitoring.yaml" || fail "the alert $name is not there"
done
grep -q 'alert: OperatorDriftRecurring$' "$folder/alerts.yaml" || fail "the alerts on the operator are not all there"
if grep -q 'alert: HighProducerErrorRate$' "$folder/without-clients.yaml"; then fail "alerts on clients are there, though switched off"; fi
if grep -q 'alert: HighMemoryUsage$' "$folder/alerts.yaml"; then fail "alerts on nodes are there, and nobody asked for them"; fi
for name in openshift on-openshift; do
  if grep -qE '^ +(runAsUser|runAsGroup|fsGroup):' "$folder/$name.yaml"; then fail "OpenShift would refuse the ids of a pod, $name"; fi
  [ "$(grep -cE '^ +type: RuntimeDefault$' "$folder/$name.yaml")" = 2 ] || fail "the rest of the restricted standard is not kept, $name"
done
[ "$(grep -cE '^ +runAsUser: 65532$' "$folder/default.yaml")$(grep -cE '^ +runAsUser: 65532$' "$folder/not-openshift.yaml")" = 22 ] ||
  fail "pods have no ids although they are not for OpenShift"
[ "$(kinds "$folder/default.yaml" Lease)" = 0 ] || fail "the chart has a Lease, which Argo CD excludes: the operator makes it"
for name in HighProducerErrorRate ConsumerStalled; do
  grep -q "alert: $name\$" "$folder/alerts.yaml" || fail "the alert $name about clients without a cluster is not there"
done

say "rights"
python3 hack/kubernetes/check_rendered.py rights <(as_json "$folder/default.yaml") <(as_json "$folder/namespaced.yaml")

say "definitions"
for name in default crds-that-go; do as_json "$folder/$name.yaml" >"$folder/$name.json"; done
for crd in crds/*.yaml; do as_json "$crd"; done >"$folder/crds.json"
python3 hack/kubernetes/check_rendered.py definitions "$folder/crds.json" "$folder/default.json" "$folder/crds-that-go.json"

say "the health check for Argo CD"
"$PYTHON" hack/kubernetes/check_health.py config/argocd/argocd-cm.yaml
note "each state of a resource is shown as it should be"

say "values"
helm create "$folder/echo" >/dev/null && rm -rf "$folder"/echo/templates/* "$folder/echo/charts"
cp "$CHART/values.yaml" "$folder/echo/values.yaml"
echo '# {{ .Values | toJson }}' >"$folder/echo/templates/values.yaml"
helm template x "$folder/echo" | sed -n 's/^# {/{/p' >"$folder/values.json"
python3 hack/kubernetes/check_rendered.py values "$folder/values.json" "$CHART/values.schema.json"
refused "replicaCuont" --set replicaCuont=2
refused "replicaCount" --set replicaCount=two
refused "pullPolicy" --set image.pullPolicy=Sometimes
refused "digest" --set image.digest=latest
refused "watchNamespaces" --set 'watchNamespaces={Orders}'
refused "driftInterval" --set operator.driftInterval=60
refused "logFormat" --set operator.logFormat=xml
refused "enabled" --set-string podDisruptionBudget.enabled=yes
refused "port" --set service.port=70000
refused "two operators would work against each other" --set replicaCount=2,leaderElection.enabled=false
refused "serviceAccount.name" --set serviceAccount.create=false
refused "the operator has no rights in monitoring" --set 'watchNamespaces={orders},monitoringNamespaces={monitoring}'
refused "monitoringNamespaces" --set 'monitoringNamespaces={Monitoring}'
refused "clusterDomain" --set clusterDomain=cluster.local.
refused "openshift" --set openshift=maybe
refused "the operator does not see" --set 'watchNamespaces={orders},tests.namespace=billing'

say "manifests"
for file in config/samples/*.yaml; do conform "$file" "$file"; done
hack/images/dev-manifests.sh >"$folder/dev.yaml"
conform "config/dev" "$folder/dev.yaml"
POSTGRESQL_IMAGE=registry.example.com/p:1 MINIO_IMAGE=registry.example.com/m:1 hack/images/dev-manifests.sh >"$folder/mirrored.yaml"
[ "$(grep -c 'image: registry.example.com/[pm]:1$' "$folder/mirrored.yaml")" = "$(grep -c ' image: ' "$folder/mirrored.yaml")" ] ||
  fail "hack/images/dev-manifests.sh leaves an image as it is in the files"
conform "config/dev with other images" "$folder/mirrored.yaml"
