#!/usr/bin/env bash
# Holds the rules of docs/ARCHITECTURE.md that no compiler checks: sizes, headers, directions of imports, words that have no place
# in the tree. Prints each breach as file:line; ends with 1 if there is any. Takes a second, needs no build.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

LIMIT=500 # lines of a file before its tests
TEST_LIMIT=1000 # lines of a file that is all tests
AIM=300

breaches=0
breach() { printf '%s\n' "$1" >&2; breaches=$((breaches + 1)); }
# Reads "file:line: what" lines and counts each as a breach.
breaches_from() { local line; while IFS= read -r line; do [ -z "$line" ] || breach "$line"; done; }

if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  mapfile -t FILES < <(git ls-files --cached --others --exclude-standard | sort -u)
else
  mapfile -t FILES < <(find . -type f -not -path './target/*' -not -path './.git/*' | sed 's|^\./||' | sort)
fi
existing=()
for file in "${FILES[@]}"; do [ -f "$file" ] && existing+=("$file"); done
FILES=("${existing[@]}")
# files PATTERN: the files whose path matches the extended regular expression.
files() { printf '%s\n' "${FILES[@]}" | grep -E "$1" || true; }

mapfile -t RUST < <(files '\.rs$')
[ ${#RUST[@]} -gt 0 ] || fail "no Rust file found: run this in the repository"

# 1. Every file says what it owns; none is longer than the limit.
long=0
while read -r lines file; do
  limit=$LIMIT
  case $file in */tests.rs | */tests/* | tests/*) limit=$TEST_LIMIT ;; esac
  if [ "$lines" -gt "$limit" ]; then breach "$file:$limit: $lines lines, the limit is $limit: split it"; fi
  if [ "$lines" -gt "$AIM" ]; then long=$((long + 1)); fi
done < <(awk 'FNR == 1 { if (file) print count, file; file = FILENAME; count = 0; tests = 0 }
  /^#\[cfg\(test\)\]/ { tests = 1 } !tests { count++ } END { print count, file }' "${RUST[@]}")
breaches_from < <(awk 'FNR == 1 && !/^\/\/! / { print FILENAME ":1: the first line is not `//!`: say what the file owns, who calls it, what it guarantees" }' "${RUST[@]}")

# 2. Crates depend on each other in one direction, and on the outside world in one place.
# Prints "line name" for each dependency of a manifest that is not for tests only.
dependencies() {
  awk '/^\[/ { inside = ($0 ~ /^\[(target\..*\.)?(build-)?dependencies\]/); if (match($0, /dependencies\.[A-Za-z0-9_-]+\]/)) { name = $0; sub(/.*dependencies\./, "", name); sub(/\].*/, "", name); if ($0 !~ /dev-dependencies/) print FNR, name } next }
    inside && /^[A-Za-z0-9_-]+[ .=]/ { name = $0; sub(/[ .=].*/, "", name); print FNR, name }' "$1"
}
# may CRATE-FOLDER NAME: whether the crate may depend on NAME.
may() {
  case $2 in
    streamhouse-*) ;;
    aws-sdk-s3 | aws-config | aws-smithy-* | aws-credential-types) [ "$1" = agent ]; return ;;
    sqlx) [ "$1" = metadata ]; return ;;
    kube | k8s-openapi) [ "$1" = operator ]; return ;;
    *) return 0 ;;
  esac
  case $1:${2#streamhouse-} in
    metadata:core | agent:core | agent:metadata | client:core | cli:core | cli:client | operator:core | operator:metadata) return 0 ;;
    tests:*) return 0 ;;
    *) return 1 ;;
  esac
}
while IFS= read -r manifest; do
  crate=$(dirname "$manifest")
  [ "$crate" != . ] || continue
  grep -A1 '^\[lints\]' "$manifest" | grep -q '^workspace = true' || breach "$manifest:1: the crate does not take the workspace's lints"
  while read -r line name; do
    may "$crate" "$name" || breach "$manifest:$line: $crate must not depend on $name"
  done < <(dependencies "$manifest")
done < <(files '(^|/)Cargo\.toml$')

# 3. Inside a crate imports go down the levels; modules of one level do not know each other.
# levels CRATE LEVEL...: each level is a list of modules "a,b,c"; the first is the top. A module that is not listed is free.
# shellcheck disable=SC2016 # awk expands what is in single quotes
levels() {
  local crate=$1
  shift
  printf '%s\n' "${RUST[@]}" | grep -E "^$crate/src/" | grep -vE '(^|/)tests(\.rs|/)' | xargs -r awk -v levels="$*" '
    BEGIN { count = split(levels, level, " "); for (i = 1; i <= count; i++) { n = split(level[i], names, ","); for (j = 1; j <= n; j++) rank[names[j]] = i } }
    FNR == 1 { own = FILENAME; sub(/^[^\/]*\/src\//, "", own); sub(/[\/.].*/, "", own); tests = 0 }
    /^#\[cfg\(test\)\]/ { tests = 1 }
    tests || !(own in rank) || /^[ \t]*\/\// { next }
    { text = $0
      while (match(text, /crate::[a-z_]+/)) {
        other = substr(text, RSTART + 7, RLENGTH - 7); text = substr(text, RSTART + RLENGTH)
        if ((other in rank) && other != own && rank[other] <= rank[own])
          print FILENAME ":" FNR ": " own " must not import " other ", which " (rank[other] < rank[own] ? "stands above it" : "stands beside it")
      } }'
}
breaches_from < <(levels agent server console produce,fetch,groups,topics,maintenance segment store,metrics)
breaches_from < <(levels client producer,consumer,admin)
breaches_from < <(levels metadata postgres,sqlite types,error)

# 4. Settings are read in one place. Others get them as values.
mapfile -t OWN < <(files '^(core|metadata|agent|client|cli|operator)/src/.*\.rs$' | grep -vE '(^|/)tests(\.rs|/)|/settings(\.rs|/)|/(process|main)\.rs$' || true)
breaches_from < <(awk '/^#\[cfg\(test\)\]/ { nextfile } /env::(var|vars|var_os|vars_os)\(/ && !/UPDATE_DOCS/ { print FILENAME ":" FNR ": reads the environment: take a setting instead" }' "${OWN[@]}")

# 5. Words that have no place in the tree: unfinished work, skipped tests, unsafe code, paths of one machine.
search() { # search PATTERN WHAT FILE...
  local pattern=$1 what=$2
  shift 2
  [ $# = 0 ] || breaches_from < <(grep -nHE "$pattern" "$@" | awk -F: -v what="$what" '{ print $1 ":" $2 ": " what }' || true)
}
search '^[^/]*\bunsafe\b *(\{|fn|impl|trait|extern)' 'unsafe code' "${RUST[@]}"
search '#\[ignore' 'a skipped test: make it run or take it out' "${RUST[@]}"
mapfile -t TEXT < <(files '\.(rs|toml|sql|proto|sh|md|yaml|yml|json|py)$|^\.env|^\.ci/' | grep -vx 'hack/check-structure.sh')
search '\b(TODO|FIXME|XXX|HACK)\b' 'unfinished work: do it, or write an issue' "${TEXT[@]}"
search '(^|[^A-Za-z0-9_.~$}])/(root|work|home/[a-z]+|Users/[a-z]+)/' 'a path of one machine' "${TEXT[@]}"

if [ "$breaches" -gt 0 ]; then fail "$breaches breaches of the structure"; fi
note "${#RUST[@]} Rust files, $long of them over $AIM lines; no breach"
