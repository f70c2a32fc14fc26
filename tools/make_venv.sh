#!/usr/bin/env bash
# Makes the environment FOLDER, or brings one that is there up to the lock file.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: make_venv.sh FOLDER}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local name
    for name in ${PYTHON:-} python3.11 python3 python3.13 python3.12; do
        if is_recent "$name"; then
            echo "$name"
            return
        fi
    done
    echo "No Python 3.11 or later on the path; name one with PYTHON=..." >&2
    return 1
}

if ! is_recent "$venv/bin/python"; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        bash tools/need_packages.sh "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
    "$python" -m venv --clear "$venv"
fi
# LightGBM's wheel links to it and does not bring it.
"$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || bash tools/need_packages.sh libgomp1

echo "Installing the locked packages into $venv; the first time that takes a minute or two."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
"$venv/bin/python" -m pip install -qq -r requirements/test.lock
"$venv/bin/python" -m pip install -qq --no-deps --no-build-isolation -e .
# The kernels are C: their own distribution, built here.
command -v cc >/dev/null 2>&1 || bash tools/need_packages.sh gcc libc6-dev
"$venv/bin/python" -m pip install -qq --no-deps --no-build-isolation --force-reinstall ./kernels
"$venv/bin/python" -m pip check
