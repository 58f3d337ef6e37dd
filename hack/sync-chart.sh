#!/usr/bin/env bash
# Copies into the chart what it ships of the repository: the custom resource definitions, and the alerts on the operator. A chart is
# one folder, so it cannot point at them. With --check it changes nothing, and fails if a copy differs.
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
{
  echo "# Copied from config/prometheus/streamhouse.rules.yml by hack/sync-chart.sh; do not edit."
  echo "groups:"
  awk '/^  - name: / { inside = ($3 == "streamhouse-operator") } inside' config/prometheus/streamhouse.rules.yml
} >"$new/operator.rules.yml"
grep -q '^      - alert: ' "$new/operator.rules.yml" ||
  fail "config/prometheus/streamhouse.rules.yml has no group streamhouse-operator with alerts"
chmod -R u=rwX,go=rX "$new"

if [ "${1:-}" = --check ]; then
  diff -r "$new" "$FILES" || fail "the chart's copies differ from the repository: run hack/sync-chart.sh"
  note "the chart's copies are the repository's"
else
  rm -rf "$FILES"
  cp -r "$new" "$FILES"
  note "copied into $FILES: $(cd "$FILES" && find . -type f | sort | xargs)"
fi
