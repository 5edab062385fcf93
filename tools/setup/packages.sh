#!/bin/bash
# Installs the packages of packages.txt that are missing, by apt-get. SYSTEM_PACKAGES=no leaves the system alone.
set -euo pipefail
cd "$(dirname "$0")"
[ "${SYSTEM_PACKAGES:-}" != no ] || exit 0

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | head -1)" = installed ]; }

# by_hand REASON PACKAGE…: what to do where this script can't.
by_hand() {
  echo "packages: $1. Install these (Debian's names), then run make again:" >&2
  echo "    ${*:2}" >&2
  echo "Where they are there under other names, or built by hand, say: make … SYSTEM_PACKAGES=no" >&2
  exit 1
}

# ensure PACKAGE…: installs what is missing of these.
ensure() {
  command -v apt-get dpkg-query >/dev/null || by_hand "this system has no apt-get" "$@"
  local missing=() as_root=()
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || by_hand "neither root nor sudo" "${missing[@]}"
    as_root=(sudo)
  fi
  echo "packages: installing ${missing[*]}"
  "${as_root[@]}" apt-get -qq update || by_hand "apt-get update failed" "${missing[@]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}" ||
    by_hand "apt-get install failed" "${missing[@]}"
}

mapfile -t packages < packages.txt
ensure "${packages[@]}"
# The reference libraries want Python 3.11, which Ubuntu 22.04 has beside its own.
if [ -z "${PYTHON:-}" ] && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  ensure python3.11 python3.11-venv
fi
