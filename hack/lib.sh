# shellcheck shell=bash
# Shared by the scripts in hack/: the installation of a compiler and of Rust, which cargo xtask tools needs to install everything else, and
# how scripts start programs and time stages. Source it; it changes into the repository's root.

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

# eventually SECONDS WHAT COMMAND...: repeats the command until it succeeds.
eventually() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || fail "$what did not happen in time"
    sleep 0.3
  done
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

has_certificates() { [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ]; }

# Installs what a build needs.
need_build_tools() {
  local missing=()
  { have cc && have ld && have make; } || missing+=(build-essential)
  have curl || missing+=(curl)
  has_certificates || missing+=(ca-certificates)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
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

# need TOOL...: installs programs that are missing (cargo xtask tools --list names them), and sets the variables that say where they are.
need() {
  local variables
  need_build_tools
  need_rust
  [ -x "${CARGO_TARGET_DIR:-target}/debug/xtask" ] || note "compiling the installer, once (about half a minute)" >&2
  variables=$(cargo run --quiet --package xtask -- tools "$@") || exit 1
  eval "$variables"
}

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
