# shellcheck shell=bash
# Kafka clients that go on while agents come and go, on a real cluster, for hack/kind-test.sh, which sources it: one pod with an idempotent
# producer of numbers and a member of a group, both kcat.
#
#   kafka_numbers_start          starts them; the cluster needs a listener for Kafka clients that creates topics
#   kafka_numbers_hold           stops the producer; every number must be stored once and in order, and the member must have read it

KAFKA_NUMBERS=kafka-numbers

kafka_numbers_start() {
  local bootstrap=$CLUSTER-kafka-bootstrap:9092
  {
    pod_head "$KAFKA_NUMBERS"
    echo "  volumes: [{name: told, emptyDir: {}}]"
    echo "  containers:"
    container client "$TOOLBOX_IMAGE"
    # -E: agents that are gone for a moment are no reason to end.
    cat <<YAML
    args:
    - -c
    - |
      set -o pipefail
      produce() { kcat -b $bootstrap -P -E -K : -t $KAFKA_NUMBERS -X enable.idempotence=true -X message.timeout.ms=120000; }
      echo 0:0 | produce && touch /told/created
      n=1
      while [ ! -e /told/stop ]; do
        end=\$((n + 5))
        while [ \$n -lt \$end ]; do echo "\$((n % 64)):\$n"; n=\$((n + 1)); done
        echo \$n >/told/count
        sleep 0.1
      done | produce
      echo "produced \$(cat /told/count), status \$?"
      while [ ! -e /told/end ]; do sleep 0.1; done
    volumeMounts: [{name: told, mountPath: /told}]
YAML
    container member "$TOOLBOX_IMAGE"
    cat <<YAML
    args:
    - -c
    - |
      while [ ! -e /told/created ]; do sleep 0.1; done
      while [ ! -e /told/end ]; do
        kcat -b $bootstrap -E -u -G $KAFKA_NUMBERS -X auto.offset.reset=earliest -f '%p %o %s\\n' $KAFKA_NUMBERS
        echo "ended with status \$?"
      done
    volumeMounts: [{name: told, mountPath: /told}]
YAML
  } | in_sample create -f - >/dev/null
  eventually 60 "the first number read by a member that is a Kafka client" kafka_numbers_read 1
}

# kafka_numbers_read COUNT: whether the member has read at least the first COUNT numbers.
kafka_numbers_read() {
  client_phase "$KAFKA_NUMBERS" Running || return 1
  in_sample logs "$KAFKA_NUMBERS" --container member | grep -E '^[0-9]+ [0-9]+ [0-9]+$' >"$WORK/kafka-member" || return 1
  [ "$(cut -d' ' -f3 "$WORK/kafka-member" | sort -un | wc -l)" -ge "$1" ]
}

kafka_numbers_produced() { client_lines "$KAFKA_NUMBERS" '^produced ' | grep -q .; }

kafka_numbers_hold() {
  local produced count
  in_sample exec "$KAFKA_NUMBERS" --container member -- touch /told/stop
  eventually 150 "the end of the producer that is a Kafka client" kafka_numbers_produced
  produced=$(client_lines "$KAFKA_NUMBERS" '^produced ')
  [[ $produced =~ ^produced\ ([0-9]+),\ status\ 0$ ]] ||
    { in_sample logs "$KAFKA_NUMBERS" --container client --tail=20 >&2; fail "the producer that is a Kafka client fails: $produced"; }
  count=${BASH_REMATCH[1]}
  eventually 120 "the reading of $count numbers by a member that is a Kafka client" kafka_numbers_read "$count"
  streamhouse_by "$(of_listener .bootstrap)" consume "$KAFKA_NUMBERS" --from-beginning --exit-at-end --format '%p %o %v\n' \
    >"$WORK/kafka-stored" || fail "streamhouse cannot consume what a Kafka client has produced"
  cmp <(cut -d' ' -f3 "$WORK/kafka-stored" | sort -n) <(seq 0 $((count - 1))) ||
    fail "what a Kafka client has produced is not stored once"
  sort -n -k1,1 -k2,2 "$WORK/kafka-stored" | awk '$1 == part && $3 <= last { exit 1 } { part = $1; last = $3 }' ||
    fail "what a Kafka client has produced is not stored in order"
  cmp <(sort -u "$WORK/kafka-member") <(sort "$WORK/kafka-stored") || fail "the member that is a Kafka client has read other records than those that are stored"
  note "Kafka clients: $count records stored once and in order, and read by a group ($(($(wc -l <"$WORK/kafka-member") - count)) of them again)"
  in_sample exec "$KAFKA_NUMBERS" --container member -- touch /told/end
  client_stop "$KAFKA_NUMBERS"
  delete_topics "$(of_listener .bootstrap)" "$KAFKA_NUMBERS"
}
