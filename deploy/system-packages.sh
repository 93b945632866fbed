#!/bin/sh
# The one place that names system packages. None is needed to run OpenShell; tests and benchmarks use
# them as clients and peers, and say so when one is missing.
#   (no argument)  install all; needs root on Debian or Ubuntu. Some peers are services that their
#                  packages start: this is for a machine of your own
#   --optional     install the clients and servers that tests use, if possible, otherwise say so and go
#                  on. Tests start servers of their own: the packages are kept from starting any
set -eu

# command -> package
WANTED="curl:curl git:git openssl:openssl postgres:postgresql nginx:nginx-light node:nodejs npm:npm go:golang-go"
PEERS="bwrap:bubblewrap tinyproxy:tinyproxy-bin squid:squid"

[ "${1:-}" = "--optional" ] && PEERS=""
missing=""
# Debian keeps its server programs out of the usual places.
for directory in /usr/sbin /sbin /usr/local/go/bin /usr/lib/postgresql/*/bin; do
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
# Debian asks this file before it starts a service; it is the operator's where there is one.
no_service=/usr/sbin/policy-rc.d
clean=""
trap 'rm -f $clean' EXIT
if [ "${1:-}" = "--optional" ] && [ ! -e "$no_service" ]; then
  clean="$no_service"
  printf '#!/bin/sh\nexit 101\n' >"$no_service"
  chmod 755 "$no_service"
fi
case "$missing" in
  *postgresql*)
    mkdir -p "${no_cluster%/*}"
    echo "create_main_cluster = false" >"$no_cluster"
    clean="$clean $no_cluster" ;;
esac
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1; then
  echo "apt-get could not install:$missing" >&2
  [ "${1:-}" = "--optional" ] || exit 1
fi
