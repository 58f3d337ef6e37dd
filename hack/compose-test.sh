#!/usr/bin/env bash
# Starts the services of docker-compose.yml, as `docker compose up --detach --wait` does: with images of this machine's programs under the
# names in that file, because none can be pulled; all but Grafana, which Debian does not have. Then it looks at each, and removes all.
# Run by hack/test.sh as a part of the stage `cluster`: cargo xtask kind lab hack/compose-test.sh.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ -n "${STREAMHOUSE_LAB:-}" ] || fail "run it in a Docker of its own: cargo xtask kind lab hack/compose-test.sh"
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
