#!/usr/bin/env bash
# Builds the images without Docker, from the programs in target/release and the libraries that they need. Each image is one tar file for
# `ctr images import`, `docker load` or `kind load image-archive`. Images for publication are built with docker/Dockerfile.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: hack/build-images.sh [--tag TAG]... [--registry PREFIX] [--out DIR] [--no-build] [--dev-servers] [IMAGE]...

Builds the images agent, operator and cli, or the named ones: DIR/streamhouse-IMAGE.tar.

  --tag TAG          the tag (default: the workspace's version); repeatable
  --registry PREFIX  the registry and organisation before the name (default: ghcr.io/streamhouse)
  --out DIR          the folder for the files (default: target/images)
  --no-build         uses the programs in target/release without building them
  --dev-servers      builds images of this machine's PostgreSQL and of MinIO instead, for clusters that cannot pull images:
                     DIR/postgresql.tar and DIR/minio.tar, named localhost/streamhouse-dev/NAME:TAG
TEXT
}

TAGS=()
REGISTRY=ghcr.io/streamhouse
OUT=target/images
BUILD=true
DEV_SERVERS=false
IMAGES=()
bins=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --tag | --registry | --out)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case $1 in --tag) TAGS+=("$2") ;; --registry) REGISTRY=${2%/} ;; --out) OUT=$(cd "$CALLED_FROM" && realpath -m "$2") ;; esac
      shift 2
      ;;
    --no-build) BUILD=false; shift ;;
    --dev-servers) DEV_SERVERS=true; shift ;;
    agent | operator | cli) IMAGES+=("$1"); shift ;;
    *) usage >&2; fail "unknown option or image $1" ;;
  esac
done
VERSION=$(workspace_version)
[ ${#TAGS[@]} -gt 0 ] || TAGS=("$VERSION")
[ ${#IMAGES[@]} -gt 0 ] || IMAGES=(agent operator cli)
BIN=${CARGO_TARGET_DIR:-target}/release

# program IMAGE: prints the name of the image's program, which also determines its path in the image.
program() { case $1 in cli) echo streamhouse ;; *) echo "streamhouse-$1" ;; esac; }

# image FILE PREFIX OPTION...: writes an image to a file.
image() {
  local file=$1 prefix=$2 tag names=()
  shift 2
  for tag in "${TAGS[@]}"; do names+=(--name "$prefix:$tag"); done
  python3 hack/images/image.py --output "$OUT/$file.tar" "${names[@]}" "$@" \
    --label "org.opencontainers.image.source=https://github.com/streamhouse/streamhouse"
}

streamhouse_image() {
  local name=$1 program ports=()
  program=$(program "$name")
  [ -x "$BIN/$program" ] || fail "$BIN/$program is missing: leave out --no-build"
  case $name in agent) ports=(--port 8080/tcp --port 50051/tcp) ;; operator) ports=(--port 8080/tcp) ;; esac
  image "streamhouse-$name" "$REGISTRY/streamhouse-$name" --program "$BIN/$program=/usr/bin/$program" --entrypoint "/usr/bin/$program" \
    "${ports[@]}" --label "org.opencontainers.image.title=streamhouse-$name" --label "org.opencontainers.image.version=$VERSION" \
    --label org.opencontainers.image.licenses=Apache-2.0
}

# Includes initdb, the programs that it starts, and the shell that it needs; omits the just-in-time compiler, the largest part.
postgresql_image() {
  local bin lib share module options=()
  bin=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1) || bin=$(readlink -f "$(command -v initdb)")
  bin=$(dirname "$bin")
  [ -x "$bin/pg_config" ] || fail "$bin has no pg_config: install PostgreSQL's development package"
  lib=$("$bin/pg_config" --pkglibdir) share=$("$bin/pg_config" --sharedir)
  for module in postgres initdb psql pg_isready; do options+=(--program "$bin/$module=$bin/$module" --link "/usr/local/bin/$module=$bin/$module"); done
  for module in plpgsql dict_snowball pgoutput libpqwalreceiver utf8_and_win; do
    [ ! -e "$lib/$module.so" ] || options+=(--program "$lib/$module.so=$lib/$module.so")
  done
  for module in sh rm mv; do options+=(--program "/bin/$module=/bin/$module"); done
  image postgresql localhost/streamhouse-dev/postgresql "${options[@]}" --tree "$share=$share" --tree /usr/share/zoneinfo=/usr/share/zoneinfo \
    --tree "$(locale_folder)=$(locale_folder)" --file hack/images/postgresql.sh=/usr/local/bin/entrypoint \
    --folder /var/lib/postgresql/data=999:999 --env PGDATA=/var/lib/postgresql/data/pgdata --env PGHOST=/tmp \
    --entrypoint /usr/local/bin/entrypoint --user 999:999 --port 5432/tcp
}

locale_folder() { compgen -G '/usr/lib/locale/[Cc].[Uu][Tt][Ff]*8' | head -n 1; }

minio_image() {
  image minio localhost/streamhouse-dev/minio --program "$STREAMHOUSE_MINIO=/usr/bin/minio" --entrypoint /usr/bin/minio --port 9000/tcp
}

need python
mkdir -p "$OUT"
if $DEV_SERVERS; then
  need postgresql minio
  postgresql_image
  minio_image
else
  if $BUILD; then
    for name in "${IMAGES[@]}"; do bins+=(--bin "$(program "$name")"); done
    # The release profile does not optimise the operator, to compile sooner; images do.
    cargo build --release --config 'profile.release.package.streamhouse-operator.opt-level=1' "${bins[@]}"
  fi
  for name in "${IMAGES[@]}"; do streamhouse_image "$name"; done
fi
