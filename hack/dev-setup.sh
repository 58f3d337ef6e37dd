#!/usr/bin/env bash
# Starts the dev stack on this machine, without Docker: PostgreSQL, MinIO, Prometheus, Alertmanager, node exporter. Creates the database
# and the bucket, migrates the metadata schema, waits until every server answers, and prints the addresses. Can be run again at any time:
# running servers are left alone. hack/dev-down.sh stops the stack. Every server listens on 127.0.0.1 only.
#
# With --docker the same servers and Grafana run in containers (docker-compose.yml), on their default ports; hack/dev-down.sh --docker
# stops them.
#
# Data, logs and process ids are in .streamhouse/dev, or DEV_DIR. Variables for other ports: DEV_POSTGRES_PORT, DEV_MINIO_PORT,
# DEV_MINIO_CONSOLE_PORT, DEV_PROMETHEUS_PORT, DEV_ALERTMANAGER_PORT, DEV_NODE_EXPORTER_PORT; of the agent that Prometheus scrapes:
# DEV_AGENT_HTTP_PORT, DEV_AGENT_GRPC_PORT; of the demo's webhook: DEV_WEBHOOK_PORT. The ports of the last start apply until
# hack/dev-down.sh --purge.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-dev.sh

# Starts the stack of docker-compose.yml.
in_containers() {
  have docker && docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 ||
    fail "--docker needs Docker with its compose plugin and a daemon that runs; without --docker it goes without"
  say "starting the dev stack in containers"
  docker compose up --detach --wait
  need_build_tools
  need_rust
  say "building the agent and the command line, bringing the metadata schema up to date"
  build_programs
  (. ./.env.dev && "${CARGO_TARGET_DIR:-target}/release/streamhouse-agent" migrate)
  say "the dev stack is up"
  note "Grafana        http://127.0.0.1:3000  user and password admin"
  note "Prometheus     http://127.0.0.1:9090"
  note "Alertmanager   http://127.0.0.1:9093"
  note "MinIO console  http://127.0.0.1:9001  user and password minioadmin"
  note "PostgreSQL     docker exec -it streamhouse-postgres psql -U streamhouse streamhouse_metadata"
  note "node exporter  http://127.0.0.1:9100/metrics"
  note "settings of an agent and the command line:  source .env.dev"
  note "stop it:  hack/dev-down.sh --docker   (with --purge its data goes too)"
}

case "$#:${1:-}" in
  0:) ;;
  1:--docker) in_containers; exit 0 ;;
  *) fail "usage: hack/dev-setup.sh [--docker]; its settings are variables, see its first lines" ;;
esac

need dev-servers minio
MINIO=$STREAMHOUSE_MINIO
for folder in /usr/lib/postgresql/*/bin; do PATH="$PATH:$folder"; done

# start NAME "VARIABLE..." TITLE HEALTH COMMAND...: starts a server unless it runs already; the ports must be free.
start() {
  local name=$1 variables=$2 title=$3 health=$4 variable
  shift 4
  if ! service_pid "$name" >/dev/null; then
    for variable in $variables; do need_free_port "$variable" "$title"; done
    start_service "$name" "$@"
  fi
  until_true "the start of $title" "$DEV_DIR/$name.log" service_answers "$name" "$health"
}

# Refuses other ports while a part of the stack runs: the result would be a mixture of two stacks.
refuse_moved_ports() {
  local entry name was service
  [ -e "$DEV_DIR/ports" ] || return 0
  for service in "${DEV_SERVICES[@]}"; do
    service_pid "$service" >/dev/null || continue
    for entry in "${DEV_PORTS[@]}"; do
      name=${entry%:*} was=$(sed -n "s/^${entry%:*}=//p" "$DEV_DIR/ports")
      [ "${was:-${!name}}" = "${!name}" ] || fail "the stack in $DEV_DIR runs with $name=$was, not ${!name}: hack/dev-down.sh first"
    done
    return 0
  done
}

sql() { # sql USER PASSWORD DATABASE STATEMENT
  env -u PGOPTIONS -u PGSERVICE -u PGSSLMODE PGPASSWORD="$2" PGCONNECT_TIMEOUT=5 \
    psql -XqAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$DEV_POSTGRES_PORT" -U "$1" -d "$3" -c "$4"
}
postgres_health() { [ "$(sql postgres postgres postgres 'SHOW data_directory')" = "$PGFOLDER/data" ]; }

start_postgres() {
  PGFOLDER=$(postgres_folder)
  mkdir -p "$PGFOLDER"
  [ "$(id -u)" != 0 ] || chown "$(id -u postgres):$(id -g postgres)" "$PGFOLDER"
  if [ ! -d "$PGFOLDER/data" ]; then
    rm -rf "$PGFOLDER/new"
    echo postgres >"$PGFOLDER/password"
    (cd / && quietly as_postgres env LC_ALL=C initdb --encoding=UTF8 --locale=C --auth=scram-sha-256 --username=postgres \
      --pwfile="$PGFOLDER/password" --pgdata="$PGFOLDER/new") || fail "PostgreSQL could not make its data folder $PGFOLDER/new"
    mv "$PGFOLDER/new" "$PGFOLDER/data"
  fi
  local as=()
  [ "$(id -u)" != 0 ] || as=(setpriv --reuid="$(id -u postgres)" --regid="$(id -g postgres)" --clear-groups)
  start postgres DEV_POSTGRES_PORT PostgreSQL postgres_health "${as[@]}" env LC_ALL=C postgres -D "$PGFOLDER/data" \
    -c listen_addresses=127.0.0.1 -c port="$DEV_POSTGRES_PORT" -c unix_socket_directories=
  [ -n "$(sql postgres postgres postgres "SELECT 1 FROM pg_roles WHERE rolname = 'streamhouse'")" ] ||
    sql postgres postgres postgres "CREATE ROLE streamhouse LOGIN"
  # Also if an older stack set another one.
  sql postgres postgres postgres "ALTER ROLE streamhouse PASSWORD 'streamhouse_dev'"
  [ -n "$(sql postgres postgres postgres "SELECT 1 FROM pg_database WHERE datname = 'streamhouse_metadata'")" ] ||
    sql postgres postgres postgres "CREATE DATABASE streamhouse_metadata OWNER streamhouse"
  sql streamhouse streamhouse_dev streamhouse_metadata 'SELECT 1' >/dev/null
}

minio_health() { curl_here "http://127.0.0.1:$DEV_MINIO_PORT/minio/health/cluster" && curl_here "http://127.0.0.1:$DEV_MINIO_CONSOLE_PORT/"; }

# minio_request METHOD: sends a signed request for the bucket, without a body.
minio_request() {
  local nothing=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  curl_here --request "$1" --aws-sigv4 aws:amz:us-east-1:s3 --user minioadmin:minioadmin \
    --header "x-amz-content-sha256: $nothing" -o /dev/null "http://127.0.0.1:$DEV_MINIO_PORT/streamhouse-data"
}

start_minio() {
  mkdir -p "$DEV_DIR/minio"
  start minio "DEV_MINIO_PORT DEV_MINIO_CONSOLE_PORT" MinIO minio_health \
    env MINIO_ROOT_USER=minioadmin MINIO_ROOT_PASSWORD=minioadmin "$MINIO" server --quiet \
    --address "127.0.0.1:$DEV_MINIO_PORT" --console-address "127.0.0.1:$DEV_MINIO_CONSOLE_PORT" "$DEV_DIR/minio"
  minio_request GET || minio_request PUT || fail "MinIO did not make the bucket streamhouse-data"
}

node_exporter_health() { curl_here "http://127.0.0.1:$DEV_NODE_EXPORTER_PORT/"; }
alertmanager_health() { curl_here "http://127.0.0.1:$DEV_ALERTMANAGER_PORT/-/ready"; }
prometheus_health() { curl_here "http://127.0.0.1:$DEV_PROMETHEUS_PORT/-/ready"; }

start_observability() {
  local folder=$DEV_DIR/prometheus name pid
  mkdir -p "$folder/targets" "$folder/demo" "$DEV_DIR/alertmanager"
  for name in producers consumers; do [ -e "$folder/targets/$name.yml" ] || echo '[]' >"$folder/targets/$name.yml"; done
  with_ports <config/prometheus/alertmanager.yml >"$DEV_DIR/alertmanager/alertmanager.yml"
  cp config/prometheus/streamhouse.rules.yml "$folder/"
  with_ports <config/prometheus/prometheus.yml >"$folder/prometheus.yml"
  quietly promtool check config "$folder/prometheus.yml" || fail "Prometheus cannot read $folder/prometheus.yml"
  start node-exporter DEV_NODE_EXPORTER_PORT "node exporter" node_exporter_health \
    prometheus-node-exporter --web.listen-address="127.0.0.1:$DEV_NODE_EXPORTER_PORT"
  # Servers that already run reload their settings.
  if pid=$(service_pid alertmanager); then kill -HUP "$pid"; fi
  # An empty cluster address disables gossip, which would listen on all interfaces.
  start alertmanager DEV_ALERTMANAGER_PORT Alertmanager alertmanager_health \
    prometheus-alertmanager --web.listen-address="127.0.0.1:$DEV_ALERTMANAGER_PORT" --cluster.listen-address= \
    --config.file="$DEV_DIR/alertmanager/alertmanager.yml" --storage.path="$DEV_DIR/alertmanager/data"
  if pid=$(service_pid prometheus); then kill -HUP "$pid"; fi
  start prometheus DEV_PROMETHEUS_PORT Prometheus prometheus_health \
    prometheus --web.listen-address="127.0.0.1:$DEV_PROMETHEUS_PORT" --config.file="$folder/prometheus.yml" \
    --storage.tsdb.path="$folder/data"
}

mkdir -p "$DEV_DIR"
refuse_moved_ports
save_ports
with_ports <.env.dev >"$DEV_DIR/env"

say "starting PostgreSQL, MinIO, node exporter, Alertmanager, Prometheus (data and logs in $DEV_DIR)"
start_postgres
start_minio
start_observability

say "building the agent and the command line, bringing the metadata schema up to date"
need_rust
build_programs
(use_dev_settings && "${CARGO_TARGET_DIR:-target}/release/streamhouse-agent" migrate)

say "the dev stack is up"
note "PostgreSQL     psql postgresql://streamhouse:streamhouse_dev@localhost:$DEV_POSTGRES_PORT/streamhouse_metadata"
note "MinIO          http://127.0.0.1:$DEV_MINIO_PORT  bucket streamhouse-data, user and password minioadmin"
note "MinIO console  http://127.0.0.1:$DEV_MINIO_CONSOLE_PORT"
note "Prometheus     http://127.0.0.1:$DEV_PROMETHEUS_PORT  expects the agent's metrics on 127.0.0.1:$DEV_AGENT_HTTP_PORT"
note "Alertmanager   http://127.0.0.1:$DEV_ALERTMANAGER_PORT"
note "node exporter  http://127.0.0.1:$DEV_NODE_EXPORTER_PORT/metrics"
note "Grafana        not started: it needs Docker; hack/dev-setup.sh --docker starts all of this with it"
note ""
note "settings of an agent and the command line:  source $DEV_DIR/env"
note "stop it:  hack/dev-down.sh   (with --purge its data goes too)"
