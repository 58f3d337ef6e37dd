#!/usr/bin/env bash
# Runs producers and consumers on the dev stack: starts the stack if it does not run (hack/dev-setup.sh) and an agent on its PostgreSQL
# and MinIO, runs the two end-to-end examples and the command line against the agent, and lists the objects in MinIO and the tables in
# PostgreSQL. Exits with 1 if a step fails. Stops the agent at the end and leaves the stack running.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-dev.sh

[ $# = 0 ] || fail "hack/demo-e2e.sh takes no arguments"
TOPIC=dev-orders

up_and_running
DIR=$(mktemp -d)
trap 'if [ -n "${AGENT:-}" ]; then kill -KILL "$AGENT" 2>/dev/null || true; fi; rm -rf "$DIR"' EXIT

say "starting an agent on PostgreSQL and MinIO"
start_dev_agent "$DIR" "$BIN/streamhouse-agent"

for example in e2e_producer_consumer e2e_offset_tracking; do
  say "example $example"
  timeout 180 "$BIN/examples/$example" || fail "the example $example failed"
done

say "the command line: a topic of four partitions, three records, read back"
"$BIN/streamhouse" topic describe "$TOPIC" >/dev/null 2>&1 || "$BIN/streamhouse" topic create "$TOPIC" --partitions 4
# Unique per run, because the topic may hold records of an earlier run.
run=run-$(date +%s)-$$
printf "customer-%d:$run pounds of tea\n" 1 2 3 >"$DIR/sent"
timeout 60 "$BIN/streamhouse" produce "$TOPIC" --key-separator : --file "$DIR/sent" --print-offsets
timeout 60 "$BIN/streamhouse" consume "$TOPIC" --from-beginning --exit-at-end --format '%k:%v\n' >"$DIR/all"
grep -F ":$run " "$DIR/all" | sort | tee "$DIR/read"
cmp "$DIR/sent" "$DIR/read" || fail "what came out is not what went in"

say "objects in MinIO"
timeout 60 "$BIN/streamhouse-agent" objects >"$DIR/objects"
head -n 20 "$DIR/objects"
lines=$(wc -l <"$DIR/objects")
[ "$lines" -le 20 ] || note "… $((lines - 20)) lines more: streamhouse-agent objects"
[ -n "$(awk '$1 > 0' "$DIR/objects")" ] || fail "there are no objects in MinIO"

say "tables in PostgreSQL"
timeout 60 "$BIN/streamhouse-agent" tables >"$DIR/tables"
cut -c1-200 "$DIR/tables"
grep -q "\"name\":\"$TOPIC\"\|^topics  *[1-9]" "$DIR/tables" || fail "there are no topics in PostgreSQL"

say "draining the agent"
stop_agent "$DIR"
AGENT=
note "all as it should be; the stack stays up: hack/dev-down.sh stops it"
