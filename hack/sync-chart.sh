#!/usr/bin/env bash
# Copies files of the repository into the chart, which cannot refer to files outside its folder: the custom resource definitions, and the
# alerts on the operator, on nodes, and on clients that have no label streamhouse_cluster. With --check it changes nothing and fails if a copy differs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() { echo "usage: hack/sync-chart.sh [--check]"; }
case ${1:-} in
  "" | --check) ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; fail "unknown option $1" ;;
esac

FILES=charts/streamhouse-operator/files
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
mkdir "$new/crds"
compgen -G 'crds/*.yaml' >/dev/null || fail "there are no definitions in crds/: run hack/update-docs.sh"
cp crds/*.yaml "$new/crds/"
# group NAME: prints one group of alerts.
group() {
  # Comments above the next group belong to that group.
  awk -v group="$1" '/^  - name: / { inside = ($3 == group) } /^  #/ { inside = 0 } inside' config/prometheus/streamhouse.rules.yml
}
# rules FILE GROUP...: writes the alerts of these groups to the file.
rules() {
  local file=$new/$1 name
  shift
  echo "# Copied from config/prometheus/streamhouse.rules.yml by hack/sync-chart.sh; do not edit." >"$file"
  echo "groups:" >>"$file"
  for name in "$@"; do
    group "$name" >>"$file"
    grep -qx "  - name: $name" "$file" || fail "config/prometheus/streamhouse.rules.yml has no group $name with alerts"
  done
}
# without_cluster FILE: narrows the alerts to series without the name of a cluster. A group of consumers whose lag an agent reports too is
# left to the alerts of that agent's cluster.
without_cluster() {
  awk '
    function unless() { if (inside) { print "          )"; print "          unless on (group, topic) streamhouse_group_lag_records{streamhouse_cluster!=\"\"}" } inside = 0 }
    /^  - name: / { consumers = ($3 == "streamhouse-consumer"); $0 = $0 "-unlabelled" }
    { if (inside && !/^          /) unless() }
    { print }
    consumers && /^        expr: \|-$/ { print "          ("; inside = 1 }
    END { unless() }' "$1" | sed 's/streamhouse_cluster=~"\.\*"/streamhouse_cluster=""/g' >"$1.new"
  mv "$1.new" "$1"
}
rules operator.rules.yml streamhouse-operator
rules nodes.rules.yml streamhouse-system
rules clients.rules.yml streamhouse-consumer streamhouse-producer
without_cluster "$new/clients.rules.yml"
chmod -R u=rwX,go=rX "$new"

if [ "${1:-}" = --check ]; then
  diff -r "$new" "$FILES" || fail "the chart's copies differ from the repository: run hack/sync-chart.sh"
  note "the chart's copies are the repository's"
else
  rm -rf "$FILES"
  cp -r "$new" "$FILES"
  note "copied into $FILES: $(cd "$FILES" && find . -type f | sort | xargs)"
fi
