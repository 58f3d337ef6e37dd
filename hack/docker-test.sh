#!/usr/bin/env bash
# What users do with Docker, where nothing can be pulled. Builds docker/Dockerfile with a compiler that only hands out the programs in
# target/release, so that everything but the compilation is real; its frontend is that of this Docker. Starts docker-compose.yml with
# images of this machine's programs (hack/lib-compose.sh). Run by hack/test.sh as a part of the stage `cluster`:
# cargo xtask kind lab hack/docker-test.sh.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ -n "${STREAMHOUSE_LAB:-}" ] || fail "run it in a Docker of its own: cargo xtask kind lab hack/docker-test.sh"
need busybox python dev-servers minio docker-compose
. hack/lib-compose.sh
WORK=$(mktemp -d)
trap '[ $? = 0 ] || compose_explain; rm -rf "$WORK"' EXIT

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
say "docker-compose.yml"
compose_runs
