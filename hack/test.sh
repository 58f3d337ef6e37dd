#!/usr/bin/env bash
# shellcheck disable=SC2317 # stages are called by name
# The one test command: installs what the tests need, then checks and tests everything, as CI does.
# Run it from anywhere: hack/test.sh, or with --help for its options.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: hack/test.sh [--quick] [--only STAGE]... [-- TEST-ARGUMENTS...]

Installs what is missing (on Debian and Ubuntu with apt-get; MinIO, Kubernetes, the OpenTelemetry Collector and Python packages
into ~/.cache/streamhouse or $STREAMHOUSE_CACHE), then runs these stages in this order:

  format        cargo fmt --check
  structure     hack/check-structure.sh: sizes, headers, directions of imports
  build         every library, binary, example, test and benchmark
  lint          clippy; a warning is an error
  dependencies  cargo-deny: licences, banned crates, sources; cargo xtask features: one set of features for every build
  docs          rustdoc; a warning is an error
  observability hack/check-observability.sh: alert rules and their tests, runbooks, routing examples, the dashboard
  chart         the operator's chart: helm lint, every way to install it against the schemas of Kubernetes, values that must be
                refused, copies, samples; and the images, built without Docker and started
  tests         unit, property, conformance and whole-system tests, with a real PostgreSQL, a real MinIO, a real
                Kubernetes API and a real OpenTelemetry Collector
  cluster       a real Kubernetes node, as root: pods, Services, names, and that nothing of it is left; on it the operator by its
                chart, and a producer that goes on while agents are scaled, killed, drained, rolled and given other credentials;
                and a real Prometheus, set up by the Prometheus Operator, that watches all of it
  demo          the README's demo, from nothing
  commands      the commands that users know by heart: cargo run of each example and of the agent, the dev stack and its demos;
                the dashboard's queries and the alert rules on a real run
  console       the agent's web console in a real headless Chromium, against what the command line says
  real-input    hack/real-input.sh: a whole dictionary, produced, consumed by a group, compared byte for byte

  --quick       format, structure, build and tests only
  --only STAGE  this stage only; may be given several times
  --            what follows goes to cargo test, such as: hack/test.sh --only tests -- -p streamhouse-metadata

All stages use the release profile, so that dependencies are built once. The servers run on free ports of 127.0.0.1 with
their data in temporary folders, and end with the tests; several runs may go on at the same time.
TEXT
}

ALL=(format structure build lint dependencies docs observability chart tests cluster demo commands console real-input)
QUICK=(format structure build tests)
CHOSEN=()
TEST_ARGS=(--workspace)
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --quick) CHOSEN+=("${QUICK[@]}"); shift ;;
    --only)
      [ $# -ge 2 ] || fail "--only needs the name of a stage: ${ALL[*]}"
      case " ${ALL[*]} " in *" $2 "*) CHOSEN+=("$2") ;; *) fail "no stage $2; the stages are: ${ALL[*]}" ;; esac
      shift 2
      ;;
    --) shift; [ $# = 0 ] || TEST_ARGS=("$@"); break ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
done
[ ${#CHOSEN[@]} -gt 0 ] || CHOSEN=("${ALL[@]}")
chosen() { case " ${CHOSEN[*]} " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

format() { cargo fmt --all --check; }
structure() { hack/check-structure.sh; }
build() { cargo build --release --workspace --all-targets; }
lint() { cargo clippy --release --workspace --all-targets -- -D warnings; }
dependencies() { cargo xtask features && cargo deny --all-features check --hide-inclusion-graph -A unused-wrapper bans licenses sources; }
docs() { RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --release --workspace --no-deps; }

observability() { hack/check-observability.sh; }

# The binaries first, also when this is the only stage: the whole-system tests run them.
tests() {
  local log status=0
  log=$(mktemp)
  cargo build --release --workspace --all-targets || { rm -f "$log"; return 1; }
  cargo test --release --no-fail-fast "${TEST_ARGS[@]}" 2>&1 | tee "$log" || status=1
  TOTAL=$(awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; suites++ }
    END { printf "test result: %s. %d passed; %d failed; %d ignored; in %d suites", failed ? "FAILED" : "ok", passed, failed, ignored, suites }' "$log")
  rm -f "$log"
  return "$status"
}

# The programs first, also when this is the only stage: they go into the images.
cluster() { build_programs && hack/test-node.sh && hack/cluster-test.sh; }

# The images hold programs of target/release.
chart() { hack/check-chart.sh && build_programs && hack/check-images.sh; }

demo() { hack/demo.sh; }

commands() (
  minio=${STREAMHOUSE_MINIO:-}
  forget_settings
  cargo run --release --features metrics -p streamhouse-client --example phase_7_complete_demo &&
    cargo run --release -p streamhouse-client --example e2e_producer_consumer &&
    cargo run --release -p streamhouse-client --example e2e_offset_tracking &&
    hack/check-live.sh &&
    cargo build --release --features metrics --bin streamhouse-agent &&
    (agent_command) &&
    STREAMHOUSE_MINIO=$minio dev_stack
)

# The agent as users start it; curl as they ask it.
agent_command() {
  local folder page
  folder=$(mktemp -d)
  # The folder's name now: the function's variables are gone when the trap runs.
  # shellcheck disable=SC2064
  trap "kill -KILL \"\${AGENT:-}\" 2>/dev/null || true; rm -rf '$folder'" EXIT
  start_agent "$folder" cargo run --release --features metrics --bin streamhouse-agent --
  for page in health ready metrics; do
    curl -fsS -o "$folder/$page" "http://$HTTP/$page" || return 1
  done
  grep -q '^streamhouse_' "$folder/metrics" || return 1
  stop_agent "$folder"
}

# The dev stack from nothing, its demos, and its end: in a folder and on ports of its own, so that a stack that runs is left alone.
dev_stack() {
  local folder
  folder=$(mktemp -d)
  # PostgreSQL does not run as root, and must reach its data.
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

# Ports of the dev stack that are free now, below those that the system gives to connections.
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

# nothing_runs FILE...: none of the processes that these files name.
nothing_runs() {
  local file pid born
  [ $# = ${#DEV_SERVICES[@]} ] || { note "$# process files for ${#DEV_SERVICES[@]} servers"; return 1; }
  for file in "$@"; do
    read -r pid born <"$file"
    if [ -z "$born" ] || [ "$(birth "$pid")" = "$born" ]; then note "$(basename "$file" .pid) still runs as process $pid"; return 1; fi
  done
}

console() { hack/check-console.sh; }

real-input() { hack/real-input.sh; }

need_build_tools
need_rust
if chosen tests; then
  need_test_tools
  need_python
  need_otel_collector
  need_kubernetes_api
  need_prometheus_operator
  need_kubernetes_tools
fi
if chosen cluster; then
  need_kubernetes_node
  need_prometheus_on_the_node
  need_busybox
fi
if chosen cluster || chosen real-input; then need_words; fi
if chosen cluster || chosen commands; then need_dev_tools; fi
if chosen console; then need_browser; fi
if chosen tests || chosen cluster || chosen commands; then need_minio; fi
if chosen dependencies; then need_cargo_deny; fi

note "$(cargo --version), $(nproc) cores, cache in $CACHE"
TOTAL=
for name in "${ALL[@]}"; do
  if chosen "$name"; then stage "$name" "$name"; fi
done
status=0
stages_end || status=1
[ -z "$TOTAL" ] || printf '\n%s\n' "$TOTAL"
exit "$status"
