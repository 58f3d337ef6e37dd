#!/usr/bin/env bash
# Copies files of the repository into the chart, which cannot refer to files outside its folder: the custom resource definitions, and the
# alerts on the operator and on nodes. With --check it changes nothing and fails if a copy differs.
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
# rules FILE GROUP: writes the alerts of one group to the file.
rules() {
  {
    echo "# Copied from config/prometheus/streamhouse.rules.yml by hack/sync-chart.sh; do not edit."
    echo "groups:"
    # Comments above the next group belong to that group.
    awk -v group="$2" '/^  - name: / { inside = ($3 == group) } /^  #/ { inside = 0 } inside' config/prometheus/streamhouse.rules.yml
  } >"$new/$1"
  grep -q '^      - alert: ' "$new/$1" || fail "config/prometheus/streamhouse.rules.yml has no group $2 with alerts"
}
rules operator.rules.yml streamhouse-operator
rules nodes.rules.yml streamhouse-system
chmod -R u=rwX,go=rX "$new"

if [ "${1:-}" = --check ]; then
  diff -r "$new" "$FILES" || fail "the chart's copies differ from the repository: run hack/sync-chart.sh"
  note "the chart's copies are the repository's"
else
  rm -rf "$FILES"
  cp -r "$new" "$FILES"
  note "copied into $FILES: $(cd "$FILES" && find . -type f | sort | xargs)"
fi
