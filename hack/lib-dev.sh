# shellcheck shell=bash
# The dev stack's folder, ports and processes. Sourced after hack/lib.sh by hack/dev-setup.sh, hack/dev-down.sh and the demos. A process of
# the stack is identified by its id and start time, so that a later process with the same id is never mistaken for it.

# Folder: DEV_DIR; the default is .streamhouse/dev in the checkout.
DEV_DIR=${DEV_DIR:-$PWD/.streamhouse/dev}
case $DEV_DIR in /*) ;; *) DEV_DIR=$CALLED_FROM/$DEV_DIR ;; esac

# Ports: the variable, else the one of the last start, else the default one.
DEV_PORTS=(
  DEV_POSTGRES_PORT:5432 DEV_MINIO_PORT:9000 DEV_MINIO_CONSOLE_PORT:9001 DEV_PROMETHEUS_PORT:9090 DEV_ALERTMANAGER_PORT:9093
  DEV_NODE_EXPORTER_PORT:9100 DEV_AGENT_HTTP_PORT:8080 DEV_AGENT_GRPC_PORT:50051 DEV_WEBHOOK_PORT:9099
)
# The stack's processes, in the order of their start.
# shellcheck disable=SC2034 # for the script that asked
DEV_SERVICES=(postgres minio node-exporter alertmanager prometheus)

load_ports() {
  local entry name number
  for entry in "${DEV_PORTS[@]}"; do
    name=${entry%:*} number=
    [ ! -e "$DEV_DIR/ports" ] || number=$(sed -n "s/^$name=//p" "$DEV_DIR/ports")
    number=${!name:-${number:-${entry#*:}}}
    if ! [[ $number =~ ^[1-9][0-9]{0,4}$ ]] || [ "$number" -gt 65535 ]; then fail "$name is not a port: $number"; fi
    printf -v "$name" %s "$number"
  done
}
load_ports

save_ports() {
  local entry name
  for entry in "${DEV_PORTS[@]}"; do
    name=${entry%:*}
    printf '%s=%s\n' "$name" "${!name}"
  done >"$DEV_DIR/ports"
}

# Copies standard input, with the chosen ports in place of the default ones.
with_ports() {
  local entry name script=()
  for entry in "${DEV_PORTS[@]}"; do script+=(-e "s/(localhost|127\\.0\\.0\\.1):${entry#*:}\\b/@${entry%:*}@/g"); done
  for entry in "${DEV_PORTS[@]}"; do
    name=${entry%:*}
    script+=(-e "s/@$name@/127.0.0.1:${!name}/g")
  done
  sed -E "${script[@]}"
}

port_taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# need_free_port VARIABLE FOR: fails if the port is taken.
need_free_port() {
  local port=${!1} holder=
  port_taken "$port" || return 0
  ! have ss || holder=$(ss -Hltnp "sport = :$port" 2>/dev/null | sed -n 's/.*users:((\("[^"]*",pid=[0-9]*\).*/ (\1)/p' | head -n 1)
  fail "port $port, which $2 wants, is taken by something else$holder: stop that, or choose another port with $1"
}

curl_here() { curl --noproxy '*' --silent --fail --max-time 5 "$@"; }

# birth PID: prints the start time of a process in ticks since boot; fails if the process has ended, also if it is a zombie.
birth() {
  local text
  text=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The name, in parentheses, may hold spaces; the state follows it.
  read -r -a text <<<"${text##*) }"
  [ "${text[0]}" != Z ] && [ "${text[0]}" != X ] && echo "${text[19]}"
}

# service_pid NAME: prints the id of the server's process if it runs.
service_pid() {
  local pid born
  { read -r pid born <"$DEV_DIR/$1.pid"; } 2>/dev/null || return 1
  [ -n "$born" ] && [ "$(birth "$pid")" = "$born" ] && echo "$pid"
}

# start_service NAME COMMAND...: starts a server that keeps running after the script.
start_service() {
  local name=$1 pid
  shift
  (cd "$DEV_DIR" && exec setsid "$@") >>"$DEV_DIR/$name.log" 2>&1 </dev/null &
  pid=$!
  echo "$pid $(birth "$pid")" >"$DEV_DIR/$name.pid"
}

# service_answers NAME COMMAND...: whether the command succeeds. Fails the script if the server has ended.
service_answers() {
  local name=$1
  shift
  service_pid "$name" >/dev/null || { tail -n 40 "$DEV_DIR/$name.log" >&2; fail "$name ended; its log is $DEV_DIR/$name.log"; }
  "$@" >/dev/null 2>&1
}

# stop_service NAME: terminates a server, and kills it after half a minute.
stop_service() {
  local name=$1 pid signal=TERM tries=0
  # On TERM PostgreSQL waits for its last client.
  [ "$name" != postgres ] || signal=INT
  if pid=$(service_pid "$name"); then
    kill -"$signal" "$pid" 2>/dev/null || true
    while service_pid "$name" >/dev/null; do
      tries=$((tries + 1))
      [ "$tries" != 300 ] || { note "$name does not end: by force"; kill -KILL "$pid" 2>/dev/null || true; }
      [ "$tries" -lt 400 ] || fail "$name (process $pid) could not be stopped"
      sleep 0.1
    done
    note "$name stopped"
  fi
  rm -f "$DEV_DIR/$name.pid"
}

# Prints PostgreSQL's data folder. PostgreSQL refuses to run as root, and its user may have no access to the checkout.
postgres_folder() {
  if [ "$(id -u)" = 0 ] && ! as_postgres test -x "$DEV_DIR" 2>/dev/null; then
    echo "/var/lib/streamhouse-dev/$(printf '%s' "$DEV_DIR" | sha256sum | cut -c1-12)"
  else
    echo "$DEV_DIR/postgres"
  fi
}

as_postgres() {
  if [ "$(id -u)" != 0 ]; then
    "$@"
  else
    setpriv --reuid="$(id -u postgres)" --regid="$(id -g postgres)" --clear-groups "$@"
  fi
}

# up_and_running: starts the stack if it does not run. Sets BIN to the folder of the programs, and applies the stack's settings.
# shellcheck disable=SC2034 # for the script that asked
up_and_running() {
  hack/dev-setup.sh
  load_ports
  BIN=${CARGO_TARGET_DIR:-target}/release
  use_dev_settings
}

# use_dev_settings: sets the variables of .env.dev for the chosen ports.
use_dev_settings() {
  forget_settings
  unset AWS_PROFILE AWS_SESSION_TOKEN
  # shellcheck disable=SC1091 # written by hack/dev-setup.sh
  . "$DEV_DIR/env"
}

# start_dev_agent FOLDER PROGRAM: starts an agent on the stack and waits until it is ready. Sets AGENT to its process id.
# shellcheck disable=SC2034 # for the script that asked
start_dev_agent() {
  local folder=$1
  need_free_port DEV_AGENT_HTTP_PORT "the agent for HTTP"
  need_free_port DEV_AGENT_GRPC_PORT "the agent for gRPC"
  : >"$folder/agent.out"
  "$2" >"$folder/agent.out" 2>"$folder/agent.log" </dev/null &
  AGENT=$!
  until_true "the agent's start" "$folder/agent.log" agent_says "$folder" '^listening '
  until_true "the agent's readiness" "$folder/agent.log" curl_here -o /dev/null "http://127.0.0.1:$DEV_AGENT_HTTP_PORT/ready"
  note "agent ready: gRPC 127.0.0.1:$DEV_AGENT_GRPC_PORT, HTTP 127.0.0.1:$DEV_AGENT_HTTP_PORT"
}
