#!/bin/sh
# The one place that names system packages. None is needed to run OpenShell; tests and benchmarks use
# them as clients and peers, and say so when one is missing.
#   (no argument)  install all; needs root on Debian or Ubuntu. Some peers are services that their
#                  packages start: this is for a machine of your own
#   --optional     install the clients and the database server that tests use, if possible, otherwise say
#                  so and go on. Tests start a server of their own: the package is kept from making one
set -eu

# command -> package
WANTED="curl:curl git:git openssl:openssl postgres:postgresql"
PEERS="bwrap:bubblewrap tinyproxy:tinyproxy-bin nginx:nginx-light squid:squid"

[ "${1:-}" = "--optional" ] && PEERS=""
missing=""
# Debian keeps its server programs out of the usual places.
for directory in /usr/sbin /sbin /usr/lib/postgresql/*/bin; do
  PATH="$PATH:$directory"
done
for pair in $WANTED $PEERS; do
  command=${pair%%:*}
  command -v "$command" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "not installed (some tests and peers are skipped without them):$missing" >&2
  [ "${1:-}" = "--optional" ] && exit 0
  echo "install them as root on Debian or Ubuntu: apt-get install$missing" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
no_cluster=/etc/postgresql-common/createcluster.d/openshell-tests.conf
case "$missing" in
  *postgresql*)
    mkdir -p "${no_cluster%/*}"
    echo "create_main_cluster = false" >"$no_cluster"
    trap 'rm -f "$no_cluster"' EXIT ;;
esac
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1; then
  echo "apt-get could not install:$missing" >&2
  [ "${1:-}" = "--optional" ] || exit 1
fi
