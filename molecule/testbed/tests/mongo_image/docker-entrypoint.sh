#!/bin/sh
# What the documentation of MongoDB's official image promises to whoever starts it, and nothing else; see mongo_image.py.
set -eu

refuse() {
  echo "$*" >&2
  exit 1
}

case "$1" in
  -*) set -- mongod "$@" ;;
esac
[ "$1" = mongod ] || exec "$@"
shift

# It gives root away only where it has it; here it must not have it.
while read -r key value _; do
  [ "$key" != Uid: ] || [ "$value" = 999 ] || refuse "the user is $value, the image's is 999"
done < /proc/self/status
for place in /data/db /data/configdb "${TMPDIR:-/tmp}" "${HOME:?}"; do
  : > "$place/.writable" || refuse "$place cannot be written to"
done
if (: > /etc/.writable) 2> /dev/null; then refuse "the root is not read-only"; fi

# mongod ends where it does not know an option.
addresses=127.0.0.1
while [ $# -gt 0 ]; do
  case "$1" in
    --auth) ;;
    --bind_ip_all) addresses=0.0.0.0 ;;
    --wiredTigerCacheSizeGB) shift ;;
    *) refuse "Error parsing command line: unrecognised option '$1'" ;;
  esac
  shift
done

user=${MONGO_INITDB_ROOT_USERNAME:-}
password=${MONGO_INITDB_ROOT_PASSWORD:-}
if [ -n "${MONGO_INITDB_ROOT_PASSWORD_FILE:-}" ]; then
  [ -z "$password" ] || refuse "MONGO_INITDB_ROOT_PASSWORD and MONGO_INITDB_ROOT_PASSWORD_FILE exclude each other"
  read -r password < "$MONGO_INITDB_ROOT_PASSWORD_FILE" || [ -n "$password" ]
fi
[ -n "$user" ] && [ -n "$password" ] || refuse "name and password of root are needed, both of them"

export FERRETDB_HANDLER=sqlite FERRETDB_SQLITE_URL=file:/data/db/ FERRETDB_STATE_DIR=/data/db FERRETDB_TELEMETRY=disable
export FERRETDB_LOG_LEVEL=error FERRETDB_TEST_ENABLE_NEW_AUTH=true FERRETDB_DEBUG_ADDR=127.0.0.1:8088
if [ ! -e /data/db/WiredTiger ]; then
  # A server that only this container reaches makes root, while the first process is still this script.
  echo "making root"
  : > /data/db/WiredTiger
  FERRETDB_LISTEN_ADDR=127.0.0.1:27017 FERRETDB_SETUP_DATABASE=admin FERRETDB_SETUP_USERNAME=$user \
    FERRETDB_SETUP_PASSWORD=$password mongod &
  sleep 2 # the first probe comes at once and finds it; the next one comes after 3 s
  kill $!
  wait $! || true
fi
echo "root is made; starting"
unset MONGO_INITDB_ROOT_USERNAME MONGO_INITDB_ROOT_PASSWORD MONGO_INITDB_ROOT_PASSWORD_FILE user password
export FERRETDB_LISTEN_ADDR=$addresses:27017
exec mongod
