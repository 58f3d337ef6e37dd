#!/usr/bin/env bash
# Builds the images without Docker, from the programs in target/release and the libraries that they need. Each image is one tar file for
# `ctr images import`, `docker load` or `kind load image-archive`. Images for publication are built with docker/Dockerfile.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: hack/build-images.sh [--tag TAG]... [--registry PREFIX] [--out DIR] [--no-build] [--dev-servers] [--cloudnative-pg] [IMAGE]...

Builds the images agent, operator and cli, or the named ones: DIR/streamhouse-IMAGE.tar. Beside them are bills of materials of all programs:
DIR/PROGRAM.cdx.json.

  --tag TAG          the tag (default: the workspace's version); repeatable
  --registry PREFIX  the registry and organisation before the name (default: ghcr.io/streamhouse)
  --out DIR          the folder for the files (default: target/images)
  --no-build         uses the programs in target/release without building them
  --dev-servers      builds images of this machine's PostgreSQL and of MinIO instead, for clusters that cannot pull images:
                     DIR/postgresql.tar and DIR/minio.tar, named localhost/streamhouse-dev/NAME:TAG
  --cloudnative-pg   builds those of CloudNativePG instead: DIR/cloudnative-pg.tar, DIR/barman-plugin.tar, which is its sidecar too, and
                     DIR/cnpg-postgresql.tar, of this machine's PostgreSQL, whose tag is MAJOR-TAG
TEXT
}

TAGS=()
REGISTRY=ghcr.io/streamhouse
OUT=target/images
BUILD=true
DEV_SERVERS=false
CLOUDNATIVE_PG=false
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
    --cloudnative-pg) CLOUDNATIVE_PG=true; shift ;;
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

# find_postgresql: sets PG_BIN, the folder of this machine's PostgreSQL.
find_postgresql() {
  PG_BIN=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1) || PG_BIN=$(readlink -f "$(command -v initdb)")
  PG_BIN=$(dirname "$PG_BIN")
  [ -x "$PG_BIN/pg_config" ] || fail "$PG_BIN has no pg_config: install PostgreSQL's development package"
}

# postgresql_files PROGRAM...: sets PG_FILES, the options for initdb, the programs that it starts, the shell that it needs, and these
# programs; omits the just-in-time compiler, the largest part.
postgresql_files() {
  local lib share module
  lib=$("$PG_BIN/pg_config" --pkglibdir) share=$("$PG_BIN/pg_config" --sharedir)
  PG_FILES=(--tree "$share=$share" --tree /usr/share/zoneinfo=/usr/share/zoneinfo --tree "$(locale_folder)=$(locale_folder)")
  for module in postgres initdb psql pg_isready "$@"; do
    PG_FILES+=(--program "$PG_BIN/$module=$PG_BIN/$module" --link "/usr/local/bin/$module=$PG_BIN/$module")
  done
  for module in plpgsql dict_snowball pgoutput libpqwalreceiver utf8_and_win; do
    [ ! -e "$lib/$module.so" ] || PG_FILES+=(--program "$lib/$module.so=$lib/$module.so")
  done
  PG_FILES+=(--program /bin/sh=/bin/sh)
}

postgresql_image() {
  local module options=()
  find_postgresql
  postgresql_files
  for module in rm mv; do options+=(--program "/bin/$module=/bin/$module"); done
  image postgresql localhost/streamhouse-dev/postgresql "${PG_FILES[@]}" "${options[@]}" --file hack/images/postgresql.sh=/usr/local/bin/entrypoint \
    --folder /var/lib/postgresql/data=999:999 --env PGDATA=/var/lib/postgresql/data/pgdata --env PGHOST=/tmp \
    --entrypoint /usr/local/bin/entrypoint --user 999:999 --port 5432/tcp
}

# As CloudNativePG wants it: the user 26, and no entry point of its own.
cnpg_postgresql_image() {
  local folder major
  find_postgresql
  major=$("$PG_BIN/pg_config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
  postgresql_files pg_ctl pg_controldata pg_basebackup pg_rewind pg_dump pg_restore
  folder=$(mktemp -d)
  printf 'root:x:0:0:root:/:/sbin/nologin\npostgres:x:26:26:postgres:/var/lib/postgresql:/sbin/nologin\n' >"$folder/passwd"
  printf 'root:x:0:\npostgres:x:26:\n' >"$folder/group"
  TAGS=("${TAGS[@]/#/$major-}")
  image cnpg-postgresql localhost/streamhouse-dev/cnpg-postgresql "${PG_FILES[@]}" --file "$folder/passwd=/etc/passwd" \
    --file "$folder/group=/etc/group" --env LANG=C.UTF-8 --entrypoint /usr/local/bin/postgres --user 26:26 --port 5432/tcp
  rm -rf "$folder"
}

# The plugin's program is that of its sidecar too, which runs Barman: a virtual environment and the Python that it belongs to, at the places
# that they have on this machine.
barman_plugin_image() {
  local python library entry options=()
  python=$(readlink -f "$BARMAN_FOLDER/bin/python3")
  library=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
  for entry in "$library"/*; do
    case ${entry##*/} in
      site-packages | dist-packages | test | idlelib | ensurepip | lib2to3 | tkinter | turtledemo | config-*) ;;
      *) if [ -d "$entry" ]; then options+=(--tree "$entry=$entry"); else options+=(--file "$entry=$entry"); fi ;;
    esac
  done
  for entry in "$library"/lib-dynload/*.so; do case ${entry##*/} in _tkinter.* | _test* | _ctypes_test.* | _xx*) ;; *) options+=(--program "$entry=$entry") ;; esac; done
  # Their libraries too.
  while read -r entry; do options+=(--program "$entry=$entry"); done < <(find "$BARMAN_FOLDER" -name '*.so')
  image barman-plugin localhost/streamhouse-dev/barman-plugin --tree "$BARMAN_FOLDER=$BARMAN_FOLDER" "${options[@]}" \
    --program "$python=$BARMAN_FOLDER/bin/python3" --env "PATH=$BARMAN_FOLDER/bin:/usr/bin:/bin" --env PYTHONDONTWRITEBYTECODE=1 \
    --program "$BARMAN_PLUGIN_FOLDER/manager=/manager" --entrypoint /manager --user 26:26
}

# Looks for a program of itself for each architecture that it knows databases on.
cloudnative_pg_image() {
  local architecture=amd64
  [ "$(uname -m)" != aarch64 ] || architecture=arm64
  image cloudnative-pg localhost/streamhouse-dev/cloudnative-pg --program "$CLOUDNATIVE_PG_FOLDER/manager=/operator/manager_$architecture" \
    --link "/manager=operator/manager_$architecture" --entrypoint /manager
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
elif $CLOUDNATIVE_PG; then
  need postgresql cloudnative-pg barman-plugin barman
  cloudnative_pg_image
  barman_plugin_image
  cnpg_postgresql_image
else
  if $BUILD; then
    for name in "${IMAGES[@]}"; do bins+=(--bin "$(program "$name")"); done
    # The release profile does not optimise the operator, to compile sooner; images do.
    cargo build --release --config 'profile.release.package.streamhouse-operator.opt-level=1' "${bins[@]}"
  fi
  for name in "${IMAGES[@]}"; do streamhouse_image "$name"; done
  # What the programs are made of, for who scans or signs the images.
  cargo xtask sbom "$OUT"
fi
