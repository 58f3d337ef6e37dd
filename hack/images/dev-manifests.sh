#!/usr/bin/env bash
# Prints the manifests of config/dev with the images in POSTGRESQL_IMAGE and MINIO_IMAGE, for clusters that cannot pull those in the files.
# Called by the scripts that start clusters.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

sed -E -e "s|^( +image: )postgres:.*|\\1${POSTGRESQL_IMAGE:-$(sed -nE 's/^ +image: (postgres:.*)/\1/p' config/dev/postgresql.yaml)}|" \
  -e "s|^( +image: )minio/minio:.*|\\1${MINIO_IMAGE:-$(sed -nE 's/^ +image: (minio.*)/\1/p' config/dev/minio.yaml)}|" \
  -s -e '1s/^/---\n/' config/dev/00-namespace.yaml config/dev/postgresql.yaml config/dev/minio.yaml
