# shellcheck shell=bash
# Stages of the test command that run several programs; cargo xtask test calls them by name. Sourced after hack/lib.sh.

# Builds the programs first, also when this is the only stage, because the images contain them.
cluster() { build_programs && hack/test-node.sh && hack/cluster-test.sh; }

# Builds the programs before the images, which contain those of target/release.
chart() { hack/check-chart.sh && build_programs && hack/check-images.sh; }

commands() (
  minio=${STREAMHOUSE_MINIO:-}
  forget_settings
  cargo run --release --features metrics -p streamhouse-client --example phase_7_complete_demo &&
    cargo run --release -p streamhouse-client --example e2e_producer_consumer &&
    cargo run --release -p streamhouse-client --example e2e_offset_tracking &&
    hack/check-live.sh &&
    build_programs --bin streamhouse-agent --bin streamhouse &&
    cargo run --quiet --package xtask -- docs-commands &&
    cargo build --release --features metrics --bin streamhouse-agent &&
    (agent_command) &&
    STREAMHOUSE_MINIO=$minio dev_stack
)

# Starts the agent with cargo run and reads its pages with curl, as the documentation says.
agent_command() {
  local folder page
  folder=$(mktemp -d)
  # Expands the folder's name now, because the function's variables do not exist when the trap runs.
  # shellcheck disable=SC2064
  trap "kill -KILL \"\${AGENT:-}\" 2>/dev/null || true; rm -rf '$folder'" EXIT
  start_agent "$folder" cargo run --release --features metrics --bin streamhouse-agent --
  for page in health ready metrics; do
    curl -fsS -o "$folder/$page" "http://$HTTP/$page" || return 1
  done
  grep -q '^streamhouse_' "$folder/metrics" || return 1
  stop_agent "$folder"
}

# Starts the dev stack, runs its demos, and stops it, in a separate folder and on free ports, so that a running stack is left alone.
dev_stack() {
  local folder
  folder=$(mktemp -d)
  # PostgreSQL does not run as root and needs access to its data.
  chmod 755 "$folder"
  (
    # shellcheck disable=SC2030 # for this stack only
    export DEV_DIR=$folder/stack
    choose_dev_ports
    trap 'timeout 120 hack/dev-down.sh --purge >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT
    timeout 900 hack/dev-setup.sh || { note "hack/dev-setup.sh failed"; exit 1; }
    cp "$DEV_DIR"/*.pid "$folder"
    timeout 120 hack/dev-setup.sh >"$folder/again" 2>&1 || { cat "$folder/again"; note "hack/dev-setup.sh failed the second time"; exit 1; }
    for name in "$folder"/*.pid; do
      cmp "$name" "$DEV_DIR/${name##*/}" || { note "hack/dev-setup.sh started again what ran"; exit 1; }
    done
    [ "$(psql "postgresql://streamhouse:streamhouse_dev@localhost:$DEV_POSTGRES_PORT/streamhouse_metadata" -XAtc 'SELECT count(*) FROM topics WHERE NOT internal')" = 0 ] ||
      { note "psql does not get into the database as the documentation says"; exit 1; }
    timeout 400 hack/demo-e2e.sh || { note "hack/demo-e2e.sh failed"; exit 1; }
    timeout 400 hack/demo-observability.sh || { note "hack/demo-observability.sh failed"; exit 1; }
    timeout 240 hack/dev-down.sh --purge || { note "hack/dev-down.sh failed"; exit 1; }
    [ ! -e "$DEV_DIR" ] || { note "hack/dev-down.sh --purge left $DEV_DIR"; exit 1; }
    nothing_runs "$folder"/*.pid
  )
}

# Sets the dev stack's ports to free ones, below the range of ephemeral ports.
choose_dev_ports() {
  local entry port taken=" "
  . hack/lib-dev.sh
  for entry in "${DEV_PORTS[@]}"; do
    port=$((20000 + RANDOM % 10000))
    while port_taken "$port" || [[ $taken == *" $port "* ]]; do port=$((20000 + RANDOM % 10000)); done
    taken+="$port "
    export "${entry%:*}=$port"
  done
}

# nothing_runs FILE...: fails if a process that one of these files names still runs.
nothing_runs() {
  local file pid born
  [ $# = ${#DEV_SERVICES[@]} ] || { note "$# process files for ${#DEV_SERVICES[@]} servers"; return 1; }
  for file in "$@"; do
    read -r pid born <"$file"
    if [ -z "$born" ] || [ "$(birth "$pid")" = "$born" ]; then note "$(basename "$file" .pid) still runs as process $pid"; return 1; fi
  done
}
