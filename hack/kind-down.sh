#!/usr/bin/env bash
# Removes what hack/kind-up.sh created: the kind cluster with everything in it, and its kubeconfig. Docker's images are kept.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-install.sh

usage() { echo "usage: hack/kind-down.sh [--name NAME] [--dry-run]"; }

NAME=streamhouse
DRY_RUN=false
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --name) [ $# -ge 2 ] || fail "--name needs a value"; NAME=$2; shift 2 ;;
    --dry-run) DRY_RUN=true; shift ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
done
$DRY_RUN || have kind || fail "kind is missing: install it (https://kind.sigs.k8s.io/docs/user/quick-start says how)"
KUBECONFIG=${KIND_KUBECONFIG:-$PWD/.streamhouse/kind-$NAME.kubeconfig}
export KUBECONFIG
run kind delete cluster --name "$NAME"
run rm -f "$KUBECONFIG"
