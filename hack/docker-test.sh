#!/usr/bin/env bash
# What a user of Docker builds and starts, where nothing can be pulled. docker/Dockerfile is built with a compiler that only hands out the
# programs in target/release, so that everything but the compilation is real; its frontend is that of this Docker. docker-compose.yml is
# started as `docker compose up --detach --wait` does it: with images of this machine's programs under the names in that file, all but
# Grafana, which Debian does not have. Run by hack/test.sh as a part of the stage `cluster`: cargo xtask kind lab hack/docker-test.sh.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ -n "${STREAMHOUSE_LAB:-}" ] || fail "run it in a Docker of its own: cargo xtask kind lab hack/docker-test.sh"
need dev-servers minio busybox python
SERVICES=(postgres minio node-exporter alertmanager prometheus)
WORK=$(mktemp -d)
trap 'docker compose down --volumes --timeout 5 >/dev/null 2>&1 || true; rm -rf "$WORK"' EXIT

image_name() { sed -nE "/^  $1:/,/image:/ s/^ +image: (.*)/\\1/p" docker-compose.yml; }

# service_image SERVICE OPTION...: an image with a shell and the programs that health checks use.
service_image() {
  local service=$1 applet options=()
  shift
  for applet in sh wget mkdir; do options+=(--link "/bin/$applet=busybox"); done
  quietly python3 hack/images/image.py --output "$WORK/$service.tar" --name "$(image_name "$service")" --file "$BUSYBOX=/bin/busybox" "${options[@]}" \
    --user 0:0 "$@"
  docker load --quiet --input "$WORK/$service.tar"
}

# debian_image SERVICE PROGRAM
debian_image() { service_image "$1" --program "$(command -v "$2")=/bin/$2" --entrypoint "/bin/$2"; }

# An image of the Dockerfile's compiler, with a cargo that has compiled already.
compiler_image() {
  local applet options=()
  cat >"$WORK/rustc" <<'SH'
#!/bin/sh
echo "host: x86_64-unknown-linux-gnu"
SH
  cat >"$WORK/cargo" <<'SH'
#!/bin/sh
set -e
case "$*" in *" --locked --profile dist "*) ;; *) echo "cargo was called otherwise: $*" >&2; exit 1 ;; esac
[ -e Cargo.lock ] && [ -e operator/src/main.rs ] && [ ! -e docs ]
mkdir -p target/x86_64-unknown-linux-gnu/dist
cp /programs/* target/x86_64-unknown-linux-gnu/dist/
SH
  chmod +x "$WORK/rustc" "$WORK/cargo"
  for applet in sh sed mkdir cp printf; do options+=(--link "/bin/$applet=busybox"); done
  for applet in streamhouse-agent streamhouse-operator streamhouse; do options+=(--file "${CARGO_TARGET_DIR:-target}/release/$applet=/programs/$applet"); done
  for applet in rustc cargo; do options+=(--file "$WORK/$applet=/usr/local/bin/$applet"); done
  quietly python3 hack/images/image.py --output "$WORK/rust.tar" --name "rust:$RUST_VERSION-bookworm" --file "$BUSYBOX=/bin/busybox" "${options[@]}" \
    --user 0:0 --env PATH=/usr/local/bin:/usr/bin:/bin --entrypoint /bin/sh
  docker load --quiet --input "$WORK/rust.tar"
}

# image_of TARGET FORMAT: what an image of the Dockerfile says of itself.
image_of() { docker image inspect --format "$2" "dockerfile-$1"; }

dockerfile_builds() {
  local target program
  # The frontend that its first line names would be pulled.
  sed '1{/^# syntax=/d}' docker/Dockerfile >"$WORK/Dockerfile"
  cp docker/Dockerfile.dockerignore "$WORK/Dockerfile.dockerignore"
  for target in agent operator cli; do
    quietly docker build --file "$WORK/Dockerfile" --target "$target" --build-arg VERSION=1.2.3 --tag "dockerfile-$target" .
    program=streamhouse-$target
    [ "$target" != cli ] || program=streamhouse
    [ "$(image_of "$target" '{{.Config.Entrypoint}} {{.Config.User}} {{index .Config.Labels "org.opencontainers.image.version"}}')" = \
      "[/usr/bin/$program] 65532:65532 1.2.3" ] || fail "the image of $target has another entry point, user or version"
    docker create --name "from-$target" "dockerfile-$target" >/dev/null
    docker cp "from-$target:/usr/bin/$program" "$WORK/built"
    cmp "$WORK/built" "${CARGO_TARGET_DIR:-target}/release/$program" || fail "the image of $target has another program"
    docker export "from-$target" | tar -tf - | grep -x etc/ssl/certs/ca-certificates.crt >/dev/null || fail "the image of $target trusts no certificates"
    docker rm "from-$target" >/dev/null
  done
  note "agent, operator and cli: entry point, user, labels, program, certificates"
}

say "docker/Dockerfile"
compiler_image
dockerfile_builds
say "images of this machine's programs"
quietly hack/build-images.sh --dev-servers --tag compose --out "$WORK"
docker load --quiet --input "$WORK/postgresql.tar"
docker tag localhost/streamhouse-dev/postgresql:compose "$(image_name postgres)"
service_image minio --program "$STREAMHOUSE_MINIO=/usr/bin/minio" --program "$(command -v curl)=/usr/bin/curl" --entrypoint /usr/bin/minio
debian_image node-exporter prometheus-node-exporter
debian_image alertmanager prometheus-alertmanager
debian_image prometheus prometheus

# The entry point of our PostgreSQL replaces its folder, which a volume's own cannot be.
cat >"$WORK/override.yml" <<'YAML'
services:
  postgres: {environment: {PGDATA: /tmp/data}}
YAML
export COMPOSE_FILE=docker-compose.yml:$WORK/override.yml

say "docker compose up"
docker compose version
docker compose config --quiet
[ "$(docker compose config --services | sort | paste -sd' ')" = "$(printf '%s\n' "${SERVICES[@]}" grafana | sort | paste -sd' ')" ] ||
  fail "docker-compose.yml has other services than this test knows"
docker compose up --detach --wait --wait-timeout 120 --pull never "${SERVICES[@]}" >"$WORK/up" 2>&1 ||
  { cat "$WORK/up" >&2; docker compose ps --all >&2; docker compose logs --tail 20 >&2; fail "docker compose up fails"; }
docker compose ps --format '{{.Service}}: {{.Status}}'
docker compose exec -T postgres psql --host=127.0.0.1 --username=streamhouse --dbname=streamhouse_metadata --command 'SELECT 1' >/dev/null ||
  fail "PostgreSQL does not answer"
for page in 9090/-/ready 9093/-/ready 9100/metrics 9000/minio/health/live; do
  curl --noproxy '*' --silent --show-error --fail --max-time 10 --output /dev/null "http://127.0.0.1:$page" || fail "http://localhost:$page does not answer"
done
[ -d "$(docker volume inspect --format '{{.Mountpoint}}' streamhouse-dev_minio)/streamhouse-data" ] || fail "MinIO has no bucket"
note "five of six services run and answer; Grafana's image cannot be made here"
