#!/bin/sh
# The entry point of the image of PostgreSQL for clusters to try out and for tests. It takes the variables of the well-known image:
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA; arguments go to the server. Run as a user that owns PGDATA's parent.
set -eu
: "${PGDATA:=/var/lib/postgresql/data}" "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}"
[ "${1:-}" != postgres ] || shift

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"
  new="$PGDATA.new"
  # What an interrupted start left behind.
  rm -rf "$new"
  (umask 077 && printf '%s' "$POSTGRES_PASSWORD" >/tmp/password)
  initdb --pgdata="$new" --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 --no-instructions
  rm /tmp/password
  printf 'host all all all scram-sha-256\n' >>"$new/pg_hba.conf"
  if [ "$POSTGRES_DB" != postgres ]; then
    printf 'CREATE DATABASE "%s"\n' "$POSTGRES_DB" | postgres --single -D "$new" postgres
  fi
  mv "$new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
