#!/usr/bin/env bash
# Runs Kafka clients that nobody here wrote against Apache Kafka and against two agents on PostgreSQL and MinIO, and compares what the
# clients print: docs/kafka.md.
#
#   hack/test-kafka.sh                 every scenario, about 10 minutes
#   hack/test-kafka.sh --small         those of hack/test.sh, about 3 minutes
#   hack/test-kafka.sh NAME...         these scenarios; --list names all
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need test-servers minio kafka kcat kafka-python franz-go franz-go-client

build_programs --bin streamhouse-agent --example kafka_clients
# No forget_settings: what `need` has set says where the clients are, and agents are started without a developer's settings.
exec "${CARGO_TARGET_DIR:-target}/release/examples/kafka_clients" "$@"
