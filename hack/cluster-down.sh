#!/usr/bin/env bash
# Stops the cluster of hack/cluster-up.sh in .streamhouse/cluster (or CLUSTER_DIR) and removes all that it kept, its data included.
# Safe to run when nothing runs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-cluster.sh

[ $# = 0 ] || fail "usage: hack/cluster-down.sh"
as_root_again cluster-down.sh "$@"
say "stopping the cluster in $CLUSTER_DIR"
[ -e "$CLUSTER_DIR/pki" ] || { note "there is none"; exit 0; }
cluster_stop "$CLUSTER_DIR"
left=$(cluster_leftovers "$CLUSTER_DIR")
[ -z "$left" ] || fail "this is left: $left"
cluster_remove "$CLUSTER_DIR"
note "nothing of it is left"
