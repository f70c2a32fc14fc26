#!/usr/bin/env bash
# Installs the Debian packages NAME... that are missing; only root can, everybody else is told what to run.
set -euo pipefail
missing=()
for name in "$@"; do
    command -v "$name" >/dev/null 2>&1 || dpkg -s "$name" >/dev/null 2>&1 || missing+=("$name")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing: ${missing[*]}. Install it with your system's package tool (Debian: apt-get install ${missing[*]})." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends "${missing[@]}" || {
    apt-get update
    apt-get install -y --no-install-recommends "${missing[@]}"
}
