# shellcheck shell=bash disable=SC2034
# Versions of the programs that the tests install. Read by hack/lib.sh and by tests/testkit: one KEY=value a line.
RUST_VERSION=1.95
MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
KUBERNETES_VERSION=v1.34.4
PROMETHEUS_OPERATOR_VERSION=v0.85.0
CARGO_DENY_VERSION=0.20.2
GO_VERSION=1.26.1
GO_SHA256_AMD64=031f088e5d955bab8657ede27ad4e3bc5b7c1ba281f05f245bcc304f327c987a
GO_SHA256_ARM64=a290581cfe4fe28ddd737dde3095f3dbeb7f2e4065cab4eae44dfc53b760c2f7
