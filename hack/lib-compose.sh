# shellcheck shell=bash
# Starts docker-compose.yml as it is, with Docker Compose, and uses it: a part of hack/docker-test.sh, which sources it in a Docker that
# can pull no image. Images with the names in the file are made of this machine's programs: Debian's PostgreSQL, Prometheus, Alertmanager
# and node exporter, and MinIO. Grafana cannot be made; in its place is a web server that serves what Grafana would read, as its user.
# WORK is a folder for files.

BIN=${CARGO_TARGET_DIR:-target}/release
# The ports of 127.0.0.1 that users rely on.
COMPOSE_PORTS=(3000 5432 9000 9001 9090 9093 9100) # in order
SHELL_OPTIONS=(--file "$BUSYBOX=/bin/busybox")
for applet in sh mkdir cat test wget; do SHELL_OPTIONS+=(--link "/bin/$applet=busybox"); done

# compose_image SERVICE OPTION...: makes an image with the name that the service's has.
compose_image() {
  local service=$1 name
  shift
  name=$(jq -er --arg service "$service" '.services[$service].image' "$WORK/compose.json")
  quietly python3 hack/images/image.py --output "$WORK/$service.tar" --name "$name" "$@"
  quietly docker load --quiet --input "$WORK/$service.tar"
  rm "$WORK/$service.tar"
  echo "$service" >>"$WORK/services"
}

compose_images() {
  local tag templates=/usr/share/prometheus/alertmanager options=()
  hack/build-images.sh --dev-servers --tag compose --out "$WORK" >/dev/null
  quietly docker load --quiet --input "$WORK/postgresql.tar"
  tag=$(jq -er .services.postgres.image "$WORK/compose.json")
  docker tag localhost/streamhouse-dev/postgresql:compose "$tag"
  echo postgres >>"$WORK/services"
  rm "$WORK"/{postgresql,minio}.tar
  compose_image minio "${SHELL_OPTIONS[@]}" --program "$STREAMHOUSE_MINIO=/usr/bin/minio" --program "$(command -v curl)=/usr/bin/curl" \
    --user 0:0 --entrypoint /usr/bin/minio
  compose_image node-exporter --program "$(command -v prometheus-node-exporter)=/bin/node_exporter" --user 65534:65534 \
    --entrypoint /bin/node_exporter
  # Debian's Alertmanager reads its templates from files.
  [ ! -d $templates ] || options+=(--tree "$templates=$templates")
  compose_image alertmanager "${SHELL_OPTIONS[@]}" "${options[@]}" --program "$(command -v prometheus-alertmanager)=/bin/alertmanager" \
    --folder /alertmanager=65534:65534 --user 65534:65534 --entrypoint /bin/alertmanager
  compose_image prometheus "${SHELL_OPTIONS[@]}" --program "$(command -v prometheus)=/bin/prometheus" \
    --folder /prometheus=65534:65534 --user 65534:65534 --entrypoint /bin/prometheus
  mkdir -p "$WORK/www/api"
  echo '{"database": "ok"}' >"$WORK/www/api/health"
  # shellcheck disable=SC2016 # for the shell in the image
  compose_image grafana "${SHELL_OPTIONS[@]}" --file "$WORK/www/api/health=/www/api/health" --folder /var/lib/grafana=472:0 --user 472:0 \
    --link /www/dashboards=/var/lib/grafana/dashboards --link /www/provisioning=/etc/grafana/provisioning \
    --entrypoint /bin/sh --entrypoint=-c \
    --entrypoint 'trap exit TERM; busybox httpd -f -p "$GF_SERVER_HTTP_ADDR:3000" -h /www & wait'
}

# What Docker Compose reads in the file, without a warning.
compose_config() {
  docker compose config --format json >"$WORK/compose.json" 2>"$WORK/warnings" || { cat "$WORK/warnings" >&2; fail "docker compose config"; }
  [ ! -s "$WORK/warnings" ] || { cat "$WORK/warnings" >&2; fail "docker compose config warns"; }
}

compose_up() { quietly docker compose up --detach --wait --wait-timeout 60 || fail "docker compose up"; }

# What explains a failure.
compose_explain() {
  [ -e "$WORK/compose.json" ] || return 0
  docker compose ps --all || true
  docker compose logs --tail 10 || true
  [ ! -s "$WORK/agent" ] || tail -n 20 "$WORK/agent"
}

# Every server listens on the port that users rely on, and nothing listens for other machines.
compose_listens() {
  ss --listening --tcp --numeric --no-header | awk '{ print $4 }' >"$WORK/listening"
  if grep -vE '^(127\.0\.0\.1|\[::1\]):' "$WORK/listening"; then fail "the containers listen for other machines"; fi
  [ "$(sed 's/.*://' "$WORK/listening" | sort -nu | paste -sd ' ')" = "${COMPOSE_PORTS[*]}" ] ||
    { cat "$WORK/listening" >&2; fail "the containers do not listen on ${COMPOSE_PORTS[*]}"; }
}

# agent_starts: with the settings of .env.dev.
agent_starts() {
  "$BIN/streamhouse-agent" >"$WORK/agent" 2>&1 &
  AGENT=$!
  eventually 30 "the agent's start" curl --fail --silent --output "$WORK/ready" http://127.0.0.1:8080/ready
}

agent_stops() {
  kill "$AGENT"
  wait "$AGENT" || fail "the agent ended with status $?"
}

# consumed: whether the whole topic is what was produced.
consumed() { "$BIN/streamhouse" consume orders --from-beginning --exit-at-end 2>/dev/null | sort | cmp -s - "$WORK/records"; }

# asked PATH FILTER: whether Prometheus's answer passes the filter.
asked() { curl --fail --silent "http://127.0.0.1:9090/api/v1/$1" | jq --exit-status "$2" >/dev/null; }

prometheus_sees_all() {
  local job
  for job in prometheus node streamhouse-agents; do
    eventually 30 "the job $job in Prometheus" asked "targets?state=active" \
      "[.data.activeTargets[] | select(.labels.job == \"$job\") | .health] | length > 0 and all(. == \"up\")"
  done
  asked rules '[.data.groups[].rules[].health] | length > 20 and all(. != "err")' || fail "Prometheus has not all rules, or one fails"
  eventually 30 "Alertmanager in Prometheus" asked alertmanagers '.data.activeAlertmanagers | length == 1'
  if docker compose logs prometheus alertmanager | grep level=error; then fail "errors in the logs"; fi
  # The root of the machine, not the container's.
  eventually 30 "the machine's disk in Prometheus" asked 'query?query=node_filesystem_size_bytes%7Bmountpoint="/"%7D' '.data.result | length > 0'
}

# The user of Grafana's image can read what is mounted, and its home dashboard is there.
grafana_could_read() {
  local file
  for file in dashboards/streamhouse-overview.json provisioning/datasources/prometheus.yml provisioning/dashboards/streamhouse.yml; do
    curl --fail --silent "http://127.0.0.1:3000/$file" | cmp - "grafana/$file" || fail "Grafana could not read grafana/$file"
  done
  # shellcheck disable=SC2016 # for the shell in the container
  docker compose exec -T grafana sh -c 'test -r "$GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"' || fail "Grafana's home dashboard is not there"
}

compose_down() {
  quietly hack/dev-down.sh --docker "$@"
  [ -z "$(docker ps --all --quiet)" ] || { docker ps --all; fail "containers are left"; }
}

compose_starts_and_ends() {
  local containers
  compose_up
  compose_listens
  containers=$(docker compose ps --quiet | sort)
  compose_up
  [ "$(docker compose ps --quiet | sort)" = "$containers" ] || fail "a second docker compose up has started other containers"
  note "docker compose up: $(wc -l <"$WORK/services") services on 127.0.0.1, ports ${COMPOSE_PORTS[*]}"
  forget_settings
  # shellcheck disable=SC1091
  . ./.env.dev
  quietly "$BIN/streamhouse-agent" migrate
  agent_starts
  "$BIN/streamhouse" topic create orders >/dev/null
  seq 1 1000 | sort >"$WORK/records"
  "$BIN/streamhouse" produce orders <"$WORK/records" >/dev/null
  consumed || fail "what was consumed is not what was produced"
  [ "$(docker exec streamhouse-postgres psql -U streamhouse streamhouse_metadata -Atc 'select 1')" = 1 ] || fail "psql in PostgreSQL's container"
  prometheus_sees_all
  grafana_could_read
  note "an agent on it: 1000 records, in Prometheus; its rules, Alertmanager and the machine's disk too; Grafana's files"
  agent_stops
  compose_down
  compose_up
  agent_starts
  consumed || fail "the records are gone after docker compose down and up"
  agent_stops
  compose_down --purge
  [ -z "$(docker volume ls --quiet)" ] || { docker volume ls; fail "volumes are left"; }
  [ -z "$(docker network ls --quiet --filter type=custom)" ] || { docker network ls; fail "networks are left"; }
  [ -z "$(ss --listening --tcp --numeric --no-header)" ] || fail "something still listens"
  note "records outlive docker compose down; nothing outlives down --volumes"
}

compose_runs() {
  mkdir -p "$DOCKER_CONFIG/cli-plugins"
  ln -s "$STREAMHOUSE_DOCKER_COMPOSE" "$DOCKER_CONFIG/cli-plugins/docker-compose"
  note "$(docker compose version)"
  compose_config
  compose_images
  [ "$(docker compose config --services | sort)" = "$(sort "$WORK/services")" ] || fail "a service has no image here: add it to hack/lib-compose.sh"
  compose_starts_and_ends
}
