#!/usr/bin/env bash
# One command for each table and panel of the paper. This script only finds a Python: flowclip_kit/launcher.py makes
# .venv where it is missing, and runs the command. Kept to what bash 3.2 (macOS) understands.
if [ -z "${BASH_VERSION:-}" ]; then # called as sh reproduce.sh
  command -v bash >/dev/null || { echo 'reproduce.sh: bash is needed; install it' >&2; exit 2; }
  exec bash "$0" "$@"
fi
set +o posix -euo pipefail
unset CDPATH

# A stream that the caller closed reads and writes nothing. bash may have opened this script in its place.
closed() { [ -d /dev/fd ] && { [ ! -e "/dev/fd/$1" ] || [ "/dev/fd/$1" -ef "${BASH_SOURCE[0]}" ]; }; }
if closed 0; then exec </dev/null; fi
if closed 1; then exec >/dev/null; fi
if closed 2; then exec 2>/dev/null; fi

script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do # older macOS has no readlink -f
  link=$(readlink "$script")
  case $link in /*) script=$link ;; *) script=$(dirname -- "$script")/$link ;; esac
done
here=$(cd -- "$(dirname -- "$script")" && pwd -P)

die() { printf 'reproduce.sh: %s\n' "$*" >&2 || true; exit 2; } # stderr may be full
recent() { "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
makes_venvs() { recent "$1" && "$1" -I -c 'import ensurepip, venv' >/dev/null 2>&1; }
run() { exec "$1" -I -S -X utf8 "$here/flowclip_kit/launcher.py" "${@:2}"; }

if [ -n "${PYTHON:-}" ]; then recent "$PYTHON" || die "PYTHON=$PYTHON is not Python 3.11 or newer"; fi
if recent "$here/.venv/bin/python"; then run "$here/.venv/bin/python" "$@"; fi
if [ -n "${PYTHON:-}" ]; then run "$PYTHON" "$@"; fi
for able in makes_venvs recent; do # Debian's python3 may come without venv: another one is better
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if $able "$name"; then run "$name" "$@"; fi
  done
done
die "no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python $0 ..."
