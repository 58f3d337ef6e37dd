#!/usr/bin/env bash
# Stops the dev stack: exactly the processes that hack/dev-setup.sh started for the folder .streamhouse/dev or DEV_DIR. Keeps the data;
# --purge deletes it. Does nothing if the stack does not run. --docker stops the stack of hack/dev-setup.sh --docker.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. hack/lib-dev.sh

purge=false docker=false
for argument in "$@"; do
  case $argument in
    --purge) purge=true ;;
    --docker) docker=true ;;
    *) fail "usage: hack/dev-down.sh [--docker] [--purge]" ;;
  esac
done

if $docker; then
  say "stopping the dev stack in containers"
  if $purge; then docker compose down --volumes; else docker compose down; fi
  exit 0
fi

say "stopping the dev stack in $DEV_DIR"
[ -d "$DEV_DIR" ] || { note "there is none"; exit 0; }
for ((i = ${#DEV_SERVICES[@]} - 1; i >= 0; i--)); do stop_service "${DEV_SERVICES[i]}"; done
if $purge; then
  # Deletes only the stack's own files, because the folder may have existed before.
  PGFOLDER=$(postgres_folder)
  rm -rf "$PGFOLDER" "$DEV_DIR/postgres" "$DEV_DIR/minio" "$DEV_DIR/prometheus" "$DEV_DIR/alertmanager"
  for name in "${DEV_SERVICES[@]}"; do rm -f "$DEV_DIR/$name.log"; done
  rm -f "$DEV_DIR/ports" "$DEV_DIR/env"
  rmdir "$DEV_DIR" 2>/dev/null || note "other files stay in $DEV_DIR"
  note "its data is gone"
fi
