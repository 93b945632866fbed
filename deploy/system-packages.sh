#!/bin/sh
# The one place that names system packages. None is needed to run OpenShell; tests and benchmarks use
# them as clients and peers, and say so when one is missing.
#   (no argument)  install all; needs root on Debian or Ubuntu. Some peers are services that their
#                  packages start: this is for a machine of your own
#   --optional     install the clients that tests use, if possible, otherwise say so and go on
set -eu

# command -> package
WANTED="curl:curl git:git openssl:openssl"
PEERS="bwrap:bubblewrap tinyproxy:tinyproxy-bin nginx:nginx-light squid:squid"

[ "${1:-}" = "--optional" ] && PEERS=""
missing=""
for pair in $WANTED $PEERS; do
  command=${pair%%:*}
  PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "not installed (some tests and peers are skipped without them):$missing" >&2
  [ "${1:-}" = "--optional" ] && exit 0
  echo "install them as root on Debian or Ubuntu: apt-get install$missing" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1; then
  echo "apt-get could not install:$missing" >&2
  [ "${1:-}" = "--optional" ] || exit 1
fi
