# shellcheck shell=bash
# Backup and restore of the metadata with CloudNativePG, as docs/operate/backup-restore.md says it, for hack/kind-test.sh, which sources
# it. CloudNativePG, its plugin and PostgreSQL are images of programs of this machine, and backups are in the MinIO of config/dev.
#
#   cloudnative_pg_start    installs CloudNativePG and creates the documented database, without waiting for it
#   backup_and_restore      a cluster on that database: its password is changed, it is backed up, and restored to a moment

BACKUP_DOCUMENT=docs/operate/backup-restore.md
# How often agents raise the timeline, by which it is noticed that records are lost.
MAINTENANCE=1s

# block SECTION LANGUAGE NUMBER: prints a block of the document.
block() { python3 hack/kind/documented.py "$BACKUP_DOCUMENT" "$@"; }

# as_documented SECTION NUMBER...: runs blocks of commands in one shell, and keeps their output in $WORK/documented.
as_documented() {
  local section=$1 number commands=
  shift
  for number; do commands+=$(block "$section" sh "$number")$'\n'; done
  bash -e -o pipefail -c "$commands" >"$WORK/documented" 2>&1 </dev/null ||
    { cat "$WORK/documented" >&2; fail "the commands $* of the section '$section' of $BACKUP_DOCUMENT fail"; }
}

# in_pod INSTANCE SQL: by the superuser of the database.
in_pod() { in_sample exec "$1" --container postgres -- psql --dbname=streamhouse --no-align --tuples-only --quiet --command "$2"; }

cloudnative_pg_images() {
  local folder node_images name
  folder=$(mktemp -d)
  hack/build-images.sh --cloudnative-pg --tag "$KIND_NAME" --out "$folder" >/dev/null
  kind load image-archive --name "$KIND_NAME" "$folder"/*.tar
  rm -rf "$folder"
  POSTGRESQL_MAJOR=$(on_first_node ctr --namespace k8s.io images list --quiet | sed -nE "s|^localhost/streamhouse-dev/cnpg-postgresql:([0-9]+)-$KIND_NAME$|\1|p")
  # By the names that the manifests have.
  node_images=localhost/streamhouse-dev
  name=$(sed -nE 's/^ +image: (.*cloudnative-pg:.*)/\1/p' "$CLOUDNATIVE_PG_FOLDER/manifest.yaml")
  on_nodes ctr --namespace k8s.io images tag --force "$node_images/cloudnative-pg:$KIND_NAME" "$name"
  name=$(sed -nE 's/^ +image: (.*plugin-barman-cloud.*)/\1/p' "$BARMAN_PLUGIN_FOLDER/manifest.yaml")
  on_nodes ctr --namespace k8s.io images tag --force "$node_images/barman-plugin:$KIND_NAME" "$name"
  on_nodes ctr --namespace k8s.io images tag --force "$node_images/barman-plugin:$KIND_NAME" "${name/-cloud/-cloud-sidecar}"
}

on_first_node() { docker exec "$(kind get nodes --name "$KIND_NAME" | sort | head -n 1)" "$@"; }

# certificate NAME: a Secret with a certificate for this name, in the place of cert-manager's.
certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" -addext "subjectAltName=DNS:$1" \
    -keyout "$WORK/$1.key" -out "$WORK/$1.crt" 2>/dev/null
  kubectl --namespace cnpg-system create secret tls "$2" --key "$WORK/$1.key" --cert "$WORK/$1.crt" >/dev/null
}

# The manifests of their releases. Images are there already; the operator's share of a processor is too small for a test; there is no
# cert-manager.
cloudnative_pg_start() {
  cloudnative_pg_images
  kubectl create namespace cnpg-system >/dev/null
  kubectl --namespace cnpg-system create configmap cnpg-controller-manager-config \
    --from-literal="POSTGRES_IMAGE_NAME=localhost/streamhouse-dev/cnpg-postgresql:$POSTGRESQL_MAJOR-$KIND_NAME" >/dev/null
  sed -e 's/imagePullPolicy: Always/imagePullPolicy: IfNotPresent/' -e '/^ *limits:$/,/^ *requests:$/ s/cpu: 100m/cpu: "2"/' \
    "$CLOUDNATIVE_PG_FOLDER/manifest.yaml" | kubectl apply --server-side -f - >/dev/null
  certificate barman-cloud barman-cloud-server-tls
  certificate barman-cloud-client barman-cloud-client-tls
  without_kind cert-manager.io "$BARMAN_PLUGIN_FOLDER/manifest.yaml" | kubectl apply --server-side -f - >/dev/null
}

# without_kind GROUP FILE: prints the objects of a manifest that are not of this API group.
without_kind() { awk -v group="apiVersion: $1/" 'BEGIN { RS = "---\n"; ORS = "---\n" } index($0, group) != 1' "$2"; }

# The documented database with two instances, and backups in MinIO.
database() {
  local name
  for name in cnpg-controller-manager barman-cloud; do kubectl --namespace cnpg-system rollout status "deployment/$name" --timeout=120s >/dev/null; done
  # An operator that sees sooner what nobody tells it of, such as a Secret's change.
  helm upgrade streamhouse-operator charts/streamhouse-operator --namespace "$OPERATOR_NAMESPACE" --reuse-values \
    --set operator.driftInterval=5s --wait --timeout 120s >/dev/null
  in_sample create secret generic backup-bucket --from-literal=accessKeyId=minioadmin --from-literal=secretAccessKey=minioadmin >/dev/null
  block CloudNativePG yaml 1 | smaller | sed -e 's|^\( *\)destinationPath: .*|\1destinationPath: s3://streamhouse-data/backups\n\1endpointURL: http://minio.streamhouse.svc:9000|' \
    >"$WORK/database.yaml"
  # The webhook of an operator that has just started may not be reached yet.
  eventually 60 "that CloudNativePG takes a database" applied "$WORK/database.yaml"
}
applied() { kubectl apply --server-side -f "$1" >"$WORK/applied" 2>&1; }
smaller() { sed -e 's/instances: 3/instances: 2/' -e 's/storage: { size: 10Gi }/storage: { size: 1Gi }/'; }

# The documented cluster on a prefix of its own, which notices sooner what was lost.
cluster_on_database() {
  in_sample wait cluster.postgresql.cnpg.io/streamhouse-metadata --for=condition=Ready --timeout=180s >/dev/null
  in_sample delete streamhouseclusters,topics --all --timeout=120s >/dev/null
  block CloudNativePG yaml 2 >"$WORK/documented.yaml"
  kubectl patch --local --type merge --output yaml -f "$WORK/documented.yaml" --patch "{\"spec\":{
    \"objectStorage\":{\"bucket\":\"streamhouse-data\",\"prefix\":\"restored\",\"endpoint\":\"http://minio.streamhouse.svc:9000\",\"pathStyle\":true,
      \"credentialsSecret\":{\"name\":\"streamhouse-s3\"}},
    \"agents\":{\"replicas\":1,\"settings\":{\"maintenanceInterval\":\"$MAINTENANCE\"}}}}" >"$WORK/cluster.yaml"
  kubectl apply --server-side -f "$WORK/cluster.yaml" >/dev/null
  in_sample wait streamhousecluster/streamhouse --for=condition=Ready --timeout=180s >/dev/null
  in_sample apply --server-side -f - >/dev/null <<'YAML'
apiVersion: streamhouse.io/v1alpha1
kind: Topic
metadata: {name: ledger}
spec: {clusterRef: {name: streamhouse}, partitions: 4}
YAML
  in_sample wait topic/ledger --for=condition=Ready --timeout=60s >/dev/null
}

# stored WORD FROM TO: produces the records WORD-FROM to WORD-TO; all are acknowledged when it ends.
stored() {
  local name
  seq -f "$1-%g" "$2" "$3" >"$WORK/$1"
  name=producer-$1
  client_feed "$WORK/$1" "$name" produce ledger --print-offsets
  eventually 60 "the acknowledgement of the records $1" client_printed "$(($3 - $2 + 1))" '@[0-9]+$' "$name"
  client_fed
  client_ended "$name"
  client_stop "$name"
}

# is_stored NAME WORD...: whether a reader gets all records of these words, and no others.
is_stored() {
  local name=$1 word count
  shift
  for word; do cat "$WORK/$word"; done | sort >"$WORK/expected"
  count=$(wc -l <"$WORK/expected")
  client_start "$name" consume ledger --from-beginning
  eventually 60 "the reading of $count records" client_printed "$count" '^[a-z]+-[0-9]+$' "$name"
  # A moment for what should not come.
  sleep 1
  client_lines "$name" '^[a-z]+-[0-9]+$' | sort | cmp - "$WORK/expected" || fail "a reader gets other records than those of $*"
  client_stop "$name"
}

# The password is CloudNativePG's; agents follow when it changes.
password_of() { in_sample get secret streamhouse-metadata-app -o 'jsonpath={.data.password}' 2>/dev/null; }
has_another_password() { [ -n "$(password_of)" ] && [ "$(password_of)" != "$1" ]; }
login() {
  in_sample exec streamhouse-metadata-1 --container postgres -- \
    psql "postgres://streamhouse:$1@streamhouse-metadata-rw.streamhouse:5432/streamhouse" --command 'SELECT 1' >"$WORK/login" 2>&1
}
password_changes() {
  local password before
  password=$(password_of)
  before=$(revision)
  login "$(base64 -d <<<"$password")" || { cat "$WORK/login" >&2; fail "the password of the Secret is not that of the database"; }
  as_documented CloudNativePG 1
  eventually 60 "another password in the Secret" has_another_password "$password"
  eventually 60 "a new template of the pods" rolled_from "$before"
  eventually 120 "the cluster's being ready" settled 1
  eventually 60 "that the database takes the new password" login "$(password_of | base64 -d)"
  ! login "$(base64 -d <<<"$password")" || fail "the old password is still good"
  note "another password, and the agents have it"
}

timeline_is_above() { [ "$(in_pod streamhouse-metadata-1 'SELECT timeline FROM cluster')" -gt "$1" ]; }
is_archived() { [[ ! "$(in_pod streamhouse-metadata-1 'SELECT last_archived_wal FROM pg_stat_archiver')" < "$1" ]]; }

# Records before the base backup, after it, and after the moment to which the database is restored. Sets MOMENT.
backed_up() {
  local timeline segment
  stored before 1 1000
  as_documented CloudNativePG 2
  stored after 1001 2000
  MOMENT=$(date -u '+%Y-%m-%d %H:%M:%S.%6N+00')
  timeline=$(in_pod streamhouse-metadata-1 'SELECT timeline FROM cluster')
  stored lost 2001 2500
  eventually 30 "a higher timeline" timeline_is_above "$timeline"
  segment=$(in_pod streamhouse-metadata-1 'SELECT pg_walfile_name(pg_switch_wal())')
  eventually 60 "the archiving of $segment" is_archived "$segment"
  note "2000 records until $MOMENT and 500 later"
}

says() { grep -qF -- "$1" "$WORK/documented" || { cat "$WORK/documented" >&2; fail "recover does not say: $1"; }; }
agents_say() { in_sample logs --selector "app.kubernetes.io/instance=$CLUSTER,app.kubernetes.io/component=agent" --tail=-1 2>/dev/null | grep -F -- "$1" >/dev/null; }
no_agents() { [ -z "$(uids)" ]; }

restored() {
  local section="Restore with CloudNativePG"
  as_documented "$section" 1
  block "$section" yaml 1 | smaller | sed -e "s|targetTime: \"[^\"]*\"|targetTime: \"$MOMENT\"|" >"$WORK/restored.yaml"
  grep -qF "$MOMENT" "$WORK/restored.yaml" || fail "the document has no targetTime"
  applied "$WORK/restored.yaml" || { cat "$WORK/applied" >&2; fail "CloudNativePG does not take the restored database"; }
  as_documented "$section" 2
  # Agents that start too early know it, and write nothing.
  in_sample patch streamhousecluster streamhouse --type merge --patch '{"spec":{"stopped":false}}' >/dev/null
  eventually 60 "that an agent notices the older metadata" agents_say "the metadata store is older than"
  as_documented "$section" 1
  as_documented "$section" 3 4
  says "not known to the metadata store"
  says "nothing was changed"
  says "agents can be started"
  as_documented "$section" 5
  eventually 120 "the cluster's being ready" settled 1
}

backup_and_restore() {
  cluster_on_database
  password_changes
  backed_up
  restored
  is_stored reader-restored before after
  stored new 1 200
  is_stored reader-all before after new
  note "2000 records of before the moment, none of the 500 after it, and 200 new ones"
}
