# shellcheck shell=bash
# Shared by the scripts in hack/: the cache folder, installation of missing programs, timing of stages. Source it; it changes into the
# repository's root. Everything that it builds or downloads goes into one cache folder outside the checkout, keyed by version, once.

set -euo pipefail
# shellcheck disable=SC2034 # for scripts that take paths
CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/versions.sh

CACHE=${STREAMHOUSE_CACHE:-$HOME/.cache/streamhouse}
mkdir -p "$CACHE"
# Variables of a `cargo run` that started this script: build scripts that watch them, such as ring's, would run again.
unset "${!CARGO_PKG_@}" "${!CARGO_MANIFEST_@}" "${!CARGO_BIN_@}" "${!CARGO_CRATE_@}" CARGO_PRIMARY_PACKAGE
case ":$PATH:" in *":$HOME/.cargo/bin:"*) ;; *) PATH="$HOME/.cargo/bin:$PATH" ;; esac

say() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
fail() { printf '\nerror: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command while holding the lock of the cache, so that parallel runs do not build the same thing.
exclusively() {
  if have flock; then
    (
      flock 9
      "$@" 9>&-
    ) 9>"$CACHE/lock"
  else
    "$@"
  fi
}

# Runs a command and shows its output only if it fails.
quietly() {
  local log
  log=$(mktemp)
  if "$@" >"$log" 2>&1 </dev/null; then
    rm -f "$log"
  else
    local status=$?
    tail -n 60 "$log" >&2
    rm -f "$log"
    return "$status"
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    fail "this needs root, and there is no sudo: run as root: $*"
  fi
}

# apt_install PACKAGE...: announces and installs Debian or Ubuntu packages.
apt_install() {
  have apt-get || fail "missing: $*. This script installs packages on Debian and Ubuntu only: install their like by hand"
  say "installing with apt-get: $*"
  [ "$(id -u)" = 0 ] || note "with sudo, which may ask for your password"
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get update || note "apt-get update failed; trying with the lists at hand"
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" ||
    fail "apt-get could not install: $*"
}

has_postgres() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
has_venv() { python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }
has_certificates() { [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ]; }

# Installs what a build needs.
need_build_tools() {
  local missing=()
  { have cc && have ld && have make; } || missing+=(build-essential)
  have curl || missing+=(curl)
  has_certificates || missing+=(ca-certificates)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# Installs what the tests need in addition.
need_test_tools() {
  local missing=()
  has_postgres || missing+=(postgresql)
  { have pgbouncer || [ -x /usr/sbin/pgbouncer ]; } || missing+=(pgbouncer)
  has_venv || missing+=(python3 python3-venv)
  { have setpriv && have flock; } || missing+=(util-linux)
  [ ${#missing[@]} = 0 ] || install_servers "${missing[@]}"
}

# Installs what the dev stack and the documented commands need.
need_dev_tools() {
  local missing=() program
  has_postgres || missing+=(postgresql)
  for program in prometheus prometheus-alertmanager prometheus-node-exporter; do have "$program" || missing+=("$program"); done
  { have setpriv && have setsid && have unshare; } || missing+=(util-linux)
  have ip || missing+=(iproute2)
  [ ${#missing[@]} = 0 ] || install_servers "${missing[@]}"
}

# install_servers PACKAGE...: installs packages without starting their services, neither now nor at the next boot, because the scripts
# start the servers themselves.
install_servers() {
  local policy=/usr/sbin/policy-rc.d made=false package status=0
  if ! has_postgres && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    as_root mkdir -p /etc/postgresql-common
    printf '%s\n' "create_main_cluster = false" | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  if [ ! -e "$policy" ]; then
    made=true
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
  fi
  (apt_install "$@") || status=$?
  ! $made || as_root rm -f "$policy"
  [ "$status" = 0 ] || exit "$status"
  for package in "$@"; do
    case $package in prometheus* | containerd | etcd-server | pgbouncer) ! have systemctl || quietly as_root systemctl disable "${package%-server}" || true ;; esac
  done
}

# version_at_least HAVE WANT: compares versions.
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

rust_version() { cargo --version 2>/dev/null | cut -d' ' -f2; }

need_rust() {
  have cargo && version_at_least "$(rust_version)" "$RUST_VERSION" && return
  if ! have rustup; then
    say "installing Rust with rustup, into ~/.rustup and ~/.cargo"
    local script
    script=$(mktemp)
    curl --proto '=https' --tlsv1.2 -fsSL https://sh.rustup.rs -o "$script" ||
      fail "cannot download rustup: install Rust $RUST_VERSION or later by hand (https://rustup.rs)"
    sh "$script" -y --no-modify-path --profile minimal --component rustfmt,clippy --default-toolchain stable
    rm -f "$script"
    hash -r
  else
    say "updating Rust: ${RUST_VERSION} or later is needed"
    rustup toolchain install stable --profile minimal --component rustfmt,clippy
    export RUSTUP_TOOLCHAIN=stable
  fi
  version_at_least "$(rust_version)" "$RUST_VERSION" ||
    fail "Rust $RUST_VERSION or later is needed, and cargo is $(rust_version): update it"
}

# Prints a go command that can build MinIO and Kubernetes. Go 1.21 and later download the toolchain that a module requires.
go_command() {
  local version arch sum folder="$CACHE/go-$GO_VERSION"
  if have go; then
    version=$(go env GOVERSION 2>/dev/null || true)
    version_at_least "${version#go}" 1.21 && { echo go; return; }
  fi
  if [ ! -x "$folder/go/bin/go" ]; then
    case $(uname -m) in
      x86_64) arch=amd64 sum=$GO_SHA256_AMD64 ;;
      aarch64) arch=arm64 sum=$GO_SHA256_ARM64 ;;
      *) fail "MinIO and Kubernetes are built with Go: install Go 1.21 or later by hand on this machine ($(uname -m))" ;;
    esac
    rm -rf "$folder.new" && mkdir -p "$folder.new"
    curl -fsSL "https://go.dev/dl/go$GO_VERSION.linux-$arch.tar.gz" -o "$folder.new/go.tar.gz" >&2 ||
      fail "MinIO and Kubernetes are built with Go, and Go could not be downloaded: install Go 1.21 or later by hand"
    printf '%s  %s\n' "$sum" "$folder.new/go.tar.gz" | sha256sum --check --quiet >&2 ||
      fail "the download of Go is damaged: its SHA-256 is not $sum"
    tar -xzf "$folder.new/go.tar.gz" -C "$folder.new" && rm "$folder.new/go.tar.gz"
    rm -rf "$folder" && mv "$folder.new" "$folder"
  fi
  echo "$folder/go/bin/go"
}

build_minio() {
  local folder="$CACHE/minio-$MINIO_VERSION" go
  [ -x "$folder/minio" ] && return
  say "building MinIO $MINIO_VERSION from source, once (about 3 minutes)"
  go=$(go_command)
  rm -rf "$folder.new" && mkdir -p "$folder.new"
  quietly env GOBIN="$folder.new" CGO_ENABLED=0 GOFLAGS=-trimpath "$go" install "github.com/minio/minio@$MINIO_VERSION" ||
    fail "MinIO could not be built"
  rm -rf "$folder" && mv "$folder.new" "$folder"
}

need_minio() {
  if [ -n "${STREAMHOUSE_MINIO:-}" ]; then
    return
  fi
  exclusively build_minio
  export STREAMHOUSE_MINIO="$CACHE/minio-$MINIO_VERSION/minio"
}

build_otel_collector() {
  local folder=$1
  all_in "$folder" otel-collector && return
  require_version hack/otel-collector go.opentelemetry.io/collector/otelcol "$OTEL_COLLECTOR_VERSION"
  say "building the OpenTelemetry Collector $OTEL_COLLECTOR_VERSION from source, once (about 2 minutes)"
  go_build hack/otel-collector "$folder" "" . || fail "the OpenTelemetry Collector could not be built"
}

# Installs the receiver of traces for the tests. The folder's name contains a digest of the build inputs.
need_otel_collector() {
  local folder
  if [ -n "${STREAMHOUSE_OTEL_COLLECTOR:-}" ]; then
    return
  fi
  folder="$CACHE/otel-collector-$OTEL_COLLECTOR_VERSION-$(cat hack/otel-collector/go.* hack/otel-collector/main.go | sha256sum | cut -c1-12)"
  exclusively build_otel_collector "$folder"
  export STREAMHOUSE_OTEL_COLLECTOR="$folder/otel-collector"
}

# build_python_venv FOLDER REQUIREMENTS: creates a virtual environment with these packages.
build_python_venv() {
  [ -e "$1/ready" ] && return
  say "installing the Python packages of $2, once"
  rm -rf "$1"
  python3 -m venv "$1"
  quietly "$1/bin/pip" install --disable-pip-version-check -r "$2" || fail "pip could not install $2"
  touch "$1/ready"
}

# Installs the independent implementation of the record batch that the tests compare with.
need_python() {
  local requirements=core/tests/requirements.txt folder
  if [ -n "${STREAMHOUSE_PYTHON:-}" ]; then
    return
  fi
  folder="$CACHE/venv-kafka-$({ python3 --version; cat "$requirements"; } | sha256sum | cut -c1-12)"
  exclusively build_python_venv "$folder" "$requirements"
  export STREAMHOUSE_PYTHON="$folder/bin/python"
}

# Installs what checks the dashboard and the alert rules. Sets PYTHON.
need_dashboard_types() {
  local requirements=tests/observability/requirements.txt folder
  has_venv || apt_install python3 python3-venv
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "the dashboard's check needs Python 3.11 or later: install it"
  folder="$CACHE/venv-grafana-$({ python3 --version; cat "$requirements"; } | sha256sum | cut -c1-12)"
  exclusively build_python_venv "$folder" "$requirements"
  # shellcheck disable=SC2034 # for the script that asked
  PYTHON="$folder/bin/python"
}

# Installs what tests the console in a browser: Debian's Chromium, the font of the pictures, and Python packages. Sets PYTHON.
need_browser() {
  local requirements=tests/console/requirements.txt folder missing=()
  have chromium || missing+=(chromium)
  compgen -G '/usr/share/fonts/*/inter/*' >/dev/null || missing+=(fonts-inter)
  has_venv || missing+=(python3 python3-venv)
  have setpriv || missing+=(util-linux)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
  folder="$CACHE/venv-console-$({ python3 --version; cat "$requirements"; } | sha256sum | cut -c1-12)"
  exclusively build_python_venv "$folder" "$requirements"
  # shellcheck disable=SC2034 # for the script that asked
  PYTHON="$folder/bin/python"
}

build_cargo_deny() {
  local folder="$CACHE/cargo-deny-$CARGO_DENY_VERSION"
  [ -x "$folder/bin/cargo-deny" ] && return
  say "building cargo-deny $CARGO_DENY_VERSION, once (a few minutes)"
  local target
  target=$(mktemp -d)
  quietly env CARGO_TARGET_DIR="$target" cargo install cargo-deny --locked --version "$CARGO_DENY_VERSION" --root "$folder" ||
    { rm -rf "$target"; fail "cargo-deny could not be built"; }
  rm -rf "$target"
}

need_cargo_deny() {
  exclusively build_cargo_deny
  export PATH="$CACHE/cargo-deny-$CARGO_DENY_VERSION/bin:$PATH"
}

# apt_unpack PACKAGE FOLDER: downloads a package of Debian or Ubuntu and unpacks it into the folder without installing it.
apt_unpack() {
  local package=$1 folder=$2 download
  local apt=(apt-get -o Acquire::Retries=3 -o Acquire::http::Timeout=30)
  download=$(mktemp -d)
  chmod 755 "$download"
  (cd "$download" && quietly "${apt[@]}" download "$package") ||
    { quietly as_root "${apt[@]}" update && (cd "$download" && quietly "${apt[@]}" download "$package"); } || { rm -rf "$download"; return 1; }
  dpkg-deb -x "$download/${package}"_*.deb "$folder" || { rm -rf "$download"; return 1; }
  rm -rf "$download"
}

fetch_words() {
  local folder="$CACHE/web2"
  [ -s "$folder/web2" ] && return
  if [ -s /usr/share/dict/web2 ]; then
    mkdir -p "$folder" && cp /usr/share/dict/web2 "$folder/web2"
    return
  fi
  have apt-get || fail "no dictionary here, and no apt-get to download one: name a text file of your own"
  say "downloading Webster's Second International of 1934 (Debian's package miscfiles, 1.3 MB; it is not installed)"
  rm -rf "$folder.new" && mkdir -p "$folder.new"
  apt_unpack miscfiles "$folder.new/files" || fail "apt-get could not download miscfiles: name a text file of your own"
  mv "$folder.new/files/usr/share/dict/web2" "$folder.new/web2"
  rm -rf "$folder" "$folder.new/files" && mv "$folder.new" "$folder"
}

# Downloads a dictionary of 234,937 lines that is out of copyright. Sets WORDS.
need_words() {
  exclusively fetch_words
  # shellcheck disable=SC2034 # for the script that asked
  WORDS="$CACHE/web2/web2"
}

fetch_busybox() {
  local folder="$CACHE/busybox"
  [ -x "$folder/busybox" ] && return
  rm -rf "$folder" "$folder.new"
  apt_unpack busybox-static "$folder.new" || fail "apt-get could not download busybox-static"
  mkdir -p "$folder"
  # Its path depends on the release.
  mv "$folder.new"/bin/busybox "$folder/busybox" 2>/dev/null || mv "$folder.new"/usr/bin/busybox "$folder/busybox" ||
    fail "the package busybox-static has no busybox"
  rm -rf "$folder.new"
}

# Downloads the shell and tools of test pods.
need_busybox() { exclusively fetch_busybox; }

# Prints the version of all crates, of the images and of the chart, from Cargo.toml.
workspace_version() { awk -F'"' '/^\[/ { inside = ($0 == "[workspace.package]") } inside && /^version/ { print $2; exit }' Cargo.toml; }

# build_programs [OPTION...]: builds the chosen programs, such as --bin streamhouse-agent; without options, every program and example.
# Dependencies have the same features in every build (cargo xtask features), so none is built twice.
build_programs() { if [ $# -gt 0 ]; then cargo build --release "$@"; else cargo build --release --workspace --bins --examples; fi; }

# Unsets a developer's settings for another cluster, so that they do not reach the one that a script starts.
forget_settings() {
  local variable
  for variable in "${!STREAMHOUSE_@}"; do
    [ "$variable" = STREAMHOUSE_CACHE ] || unset "$variable"
  done
}

# shellcheck source=hack/lib-kube.sh
. hack/lib-kube.sh

# Stages: `stage NAME COMMAND...` runs and times a stage; `stages_end` prints a summary with the causes of failures and returns whether all
# stages passed. Without a terminal the output is also kept, because logs of a run are often truncated to their end.
STAGES=()
FAILED=0
FAILURES=()
stage() {
  local name=$1 begin=$SECONDS result=ok log='' out copier
  shift
  say "$name"
  if [ -t 1 ]; then
    "$@" || result=FAILED
  else
    log=$(mktemp)
    exec {out}> >(tee "$log")
    copier=$!
    "$@" >&"$out" 2>&1 || result=FAILED
    exec {out}>&-
    # Waits a second at most: a process that the stage left behind may hold the output open.
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$copier" 2>/dev/null && sleep 0.1; done
  fi
  if [ "$result" != ok ]; then
    FAILED=$((FAILED + 1))
    FAILURES+=("$name: $(why_failed "$log")")
  fi
  [ -z "$log" ] || rm -f "$log"
  STAGES+=("$(printf '%-14s %-7s %2d min %02d s' "$name" "$result" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)))")
  note "$name: $result after $((SECONDS - begin)) s"
}

# why_failed LOG: prints the first lines with errors, or else the last lines.
why_failed() {
  local lines
  [ -n "$1" ] || { echo "see above"; return; }
  lines=$(grep -aE '^(error|Error|ERROR|AssertionError)|^test .* FAILED$|panicked at|^FAILED' "$1" | head -n 12 || true)
  [ -n "$lines" ] || lines=$(tail -n 12 "$1")
  printf '\n%s\n' "$lines" | cut -c1-400
}

stages_end() {
  say "summary"
  printf '    %s\n' "${STAGES[@]}"
  printf '    %-14s %-7s %2d min %02d s\n' all "$([ $FAILED = 0 ] && echo ok || echo FAILED)" $((SECONDS / 60)) $((SECONDS % 60))
  [ $FAILED = 0 ] || printf '\n%s\n' "${FAILURES[@]}"
  return $((FAILED > 0))
}
