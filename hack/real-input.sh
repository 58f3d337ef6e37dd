#!/usr/bin/env bash
# Produces and consumes a whole dictionary and checks that the output is equal to the input, byte for byte.
#
#   hack/real-input.sh         Webster's Second International of 1934: 234,937 lines, from Debian's package miscfiles
#   hack/real-input.sh FILE    a text file of your own; its last line must end with a line feed
#
# Starts an agent with --dev, three members of a consumer group, and a producer that reads the file, all with the command line. Then sorts
# the lines that the members printed by the offsets that the producer reported, and compares them with the file. Runs on free ports of
# 127.0.0.1 in a temporary folder and leaves nothing behind.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export LC_ALL=C

TOPIC=real-input
GROUP=readers
PARTITIONS=6
MEMBERS=3

need_build_tools
need_rust
if [ $# -gt 0 ]; then INPUT=$(cd "$CALLED_FROM" && realpath "$1"); else need words; INPUT=$WORDS; fi
[ -s "$INPUT" ] || fail "no such file, or an empty one: $INPUT"
[ -z "$(tail -c 1 "$INPUT")" ] || fail "the last line of $INPUT has no line feed, so it cannot be told from one that has: add it"
LINES_IN=$(wc -l <"$INPUT")

say "building the agent and the command line"
build_programs --bin streamhouse-agent --bin streamhouse
BIN=${CARGO_TARGET_DIR:-target}/release

forget_settings
DIR=$(mktemp -d)
PIDS=()
clean_up() {
  local pid
  for pid in "${PIDS[@]}" ${AGENT:-}; do kill -KILL "$pid" 2>/dev/null || true; done
  rm -rf "$DIR"
}
trap clean_up EXIT

say "starting an agent with SQLite and a local folder"
start_agent "$DIR" "$BIN/streamhouse-agent"
export STREAMHOUSE_BOOTSTRAP="$GRPC"
"$BIN/streamhouse" topic create "$TOPIC" --partitions "$PARTITIONS"

say "starting $MEMBERS members of the group $GROUP"
CONSUMERS=()
for member in $(seq "$MEMBERS"); do
  "$BIN/streamhouse" --client-id "member-$member" consume "$TOPIC" --group "$GROUP" --from-beginning --format '%p %o %v\n' \
    >"$DIR/member-$member" 2>"$DIR/member-$member.log" </dev/null &
  CONSUMERS+=("$!")
  PIDS+=("$!")
done
describe() { "$BIN/streamhouse" group describe "$GROUP" >"$DIR/group" 2>"$DIR/group.log"; }
# The row of each member ends with its partitions, two each.
shared_out() { describe && [ "$(grep -cE " $TOPIC-[0-9]+ $TOPIC-[0-9]+ *\$" "$DIR/group")" = "$MEMBERS" ]; }
until_true "an equal share for each member" "$DIR/group" shared_out
cat "$DIR/group"

say "producing $INPUT: $LINES_IN lines, $(wc -c <"$INPUT") bytes"
"$BIN/streamhouse" produce "$TOPIC" --file "$INPUT" --print-offsets >"$DIR/stored"
caught_up() { describe && grep -q "^$MEMBERS members, 0 records behind" "$DIR/group"; }
until_true "the group's catching up" "$DIR/group" caught_up
cat "$DIR/group"

say "stopping the members"
for pid in "${CONSUMERS[@]}"; do kill -TERM "$pid"; done
for pid in "${CONSUMERS[@]}"; do wait "$pid" || fail "a member ended with $?: $(cat "$DIR"/member-*.log)"; done

say "comparing"
read_all=0
for member in $(seq "$MEMBERS"); do
  count=$(wc -l <"$DIR/member-$member")
  note "member $member read $count records of partitions $(cut -d' ' -f1 "$DIR/member-$member" | sort -un | paste -sd,)"
  [ "$count" -gt 0 ] || fail "member $member read nothing"
  read_all=$((read_all + count))
done
[ "$read_all" = "$LINES_IN" ] || fail "the members read $read_all records, the file has $LINES_IN lines"
cat "$DIR"/member-[0-9] | sort -k1,1n -k2,2n | awk '
  $1 != partition { partition = $1; expected = 0 }
  $2 != expected { print "partition " $1 " has offset " $2 " where " expected " belongs"; exit 1 }
  { expected++ }' || fail "the offsets are not gap-free"
# Maps partition and offset to the line that a member printed, then prints the lines in the order of the file.
awk 'FNR == NR { place = $1 " " $2; line[place] = substr($0, length(place) + 2); next }
  { sub(/^.*-/, ""); sub(/@/, " "); print line[$0] }' \
  <(cat "$DIR"/member-[0-9]) "$DIR/stored" >"$DIR/output"
cmp "$INPUT" "$DIR/output" || fail "what came out is not what went in"
note "in:  $(sha256sum <"$INPUT")"
note "out: $(sha256sum <"$DIR/output")"

say "draining the agent"
stop_agent "$DIR"
note "$LINES_IN lines, the same byte for byte"
