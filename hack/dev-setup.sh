#!/usr/bin/env bash
# Starts the dev stack on this machine, without Docker: PostgreSQL, MinIO, Prometheus, Alertmanager, node exporter. Creates the database
# and the bucket, migrates the metadata schema, waits until every server answers, and prints the addresses. Can be run again at any time:
# running servers are left alone. hack/dev-down.sh stops the stack. Every server listens on 127.0.0.1 only.
#
# With --docker the same servers and Grafana run in containers (docker-compose.yml), on their default ports; hack/dev-down.sh --docker
# stops them.
#
# Data, logs and process ids are in .streamhouse/dev, or DEV_DIR. Variables for other ports: DEV_POSTGRES_PORT, DEV_MINIO_PORT,
# DEV_MINIO_CONSOLE_PORT, DEV_PROMETHEUS_PORT, DEV_ALERTMANAGER_PORT, DEV_NODE_EXPORTER_PORT; of the agent that Prometheus scrapes:
# DEV_AGENT_HTTP_PORT, DEV_AGENT_GRPC_PORT; of the demo's webhook: DEV_WEBHOOK_PORT. The ports of the last start apply until
# hack/dev-down.sh --purge.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
export CALLED_FROM
exec cargo run --quiet --package xtask -- dev-stack up "$@"
