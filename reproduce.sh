#!/usr/bin/env bash
# One command per table and panel of the paper. The first call builds .venv beside this file; later calls find it complete.
# Kept to what bash 3.2 (macOS) understands.
if [ -z "${BASH_VERSION:-}" ]; then # called as sh reproduce.sh
  command -v bash >/dev/null || { echo 'reproduce.sh: bash is needed; install it' >&2; exit 2; }
  exec bash "$0" "$@"
fi
set +o posix -euo pipefail
# Whoever closed a stream wants nothing from it. bash may have opened this script in its place.
closed() { [ -d /dev/fd ] && { [ ! -e "/dev/fd/$1" ] || [ "/dev/fd/$1" -ef "${BASH_SOURCE[0]}" ]; }; }
if closed 0; then exec </dev/null; fi
if closed 1; then exec >/dev/null; fi
if closed 2; then exec 2>/dev/null; fi
# Settings of the user's own Python, IPython and matplotlib, which would change or break what is made here.
unset CDPATH PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONINSPECT PYTHONOPTIMIZE PYTHONWARNINGS MPLBACKEND
export PYTHONNOUSERSITE=1 PYTHONUTF8=1 MATPLOTLIBRC=/dev/null

script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do # macOS' readlink had no -f for long
  link=$(readlink "$script")
  case $link in /*) script=$link ;; *) script=$(dirname -- "$script")/$link ;; esac
done
here=$(cd -- "$(dirname -- "$script")" && pwd -P)
venv=$here/.venv
environment=$here/flowclip_kit/environment.py

show_help() { # WORDS: argparse's help, which needs a Python but no packages
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} "$venv/bin/python" python3 python3.14 python3.13 python3.12 python3.11 python; do
    if recent_enough "$candidate"; then PYTHONPATH=$here exec "$candidate" -P -m flowclip_kit.parser "$@"; fi
  done
  die "no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python $0 --help"
}

find_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null

say() { printf 'reproduce.sh: %s\n' "$*" >&2 || true; } # stderr may be full
die() { say "$*"; exit 2; }

recent_enough() { "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
can_make_venv() { recent_enough "$1" && "$1" -I -c 'import ensurepip, venv' >/dev/null 2>&1; }

find_python() { # prints the Python that makes .venv
  local candidate bare=
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"
  else set -- python3 python3.14 python3.13 python3.12 python3.11 python; fi
  for candidate in "$@"; do
    if can_make_venv "$candidate"; then printf '%s\n' "$candidate"; return; fi
    if recent_enough "$candidate"; then bare=${bare:-$candidate}; fi
  done
  [ -z "$bare" ] || die "$bare lacks venv and ensurepip; install them (Debian, Ubuntu: apt install python3-venv)"
  die "no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python $0 ..."
}

stamped() { "$venv/bin/python" -I -S "$environment" stamped >/dev/null 2>&1; }

# On a terminal the installers show their progress; elsewhere they write to a log that is shown if they fail.
quietly() { if [ -t 2 ]; then "$@" >&2; else "$@" >>"$venv/setup.log" 2>&1; fi; }

show_log() { [ -t 2 ] || tail -n 20 "$venv/setup.log" >&2; }

with_pip() { "$venv/bin/python" -m pip install --no-input --no-compile "$@"; }
# In the checkout, so that no project file of the caller's folder configures uv.
with_uv() { (cd -- "$here" && "${uv[@]}" pip install --python "$venv/bin/python" "$@"); }

# Does what was installed load? Also leaves the bytecode, which PYTHONDONTWRITEBYTECODE (ignored under -I) would have
# every later process make again, seconds each.
loads() {
  "$venv/bin/python" -I -c \
    'import av, ipykernel.kernelapp, ipywidgets, nbval, open_clip, pandas, papermill, pytest, seaborn, torchvision'
}

need_index() { # an installer failed: end here if that is because no package index answers
  local answer
  answer=$(with_pip --dry-run --no-deps --ignore-installed --retries 1 --timeout 10 pip 2>&1) && return
  case $answer in
    *"onnection broken"* | *"onnection error"* | *"Max retries"* | *"timed out"*)
      die "set-up stopped: no package index answers. Connect, or name a mirror (PIP_INDEX_URL, UV_DEFAULT_INDEX)," \
        "or activate an environment that satisfies environment.yml; then run this again" ;;
  esac
}

# Where an installer fails, once more into a log: the reason decides what follows, and a terminal keeps none.
tried() { quietly "$@" || "$@" >"$venv/failed.log" 2>&1; }

why() { grep -Eiq "$1" "$venv/failed.log"; }

explain() { tail -n 20 "$venv/failed.log" >&2; }

need_hashes() { # an installer failed: end here if that is because a file is not the one that was locked
  if why 'hash mismatch|do not match the hashes'; then
    explain
    die "set-up stopped: the package above is another file than the one whose hash is in $1: a damaged download," \
      "or an index or mirror that was tampered with. Nothing is installed without its hash; take another index, run again"
  fi
}

install_packages() { # sets taken_from to the file that the versions came from
  local lock=$here/requirements.lock
  say "installing the packages of requirements.lock (minutes and gigabytes the first time)"
  taken_from=requirements.lock
  if command -v uv >/dev/null 2>&1; then uv=(uv)
  else
    uv=("$venv/bin/python" -m uv)
    "$venv/bin/python" -I "$environment" extra uv >"$venv/uv.lock"
    if [ -s "$venv/uv.lock" ] && ! tried with_pip --quiet --retries 1 --require-hashes --no-deps -r "$venv/uv.lock"; then
      need_hashes requirements-extras.lock
      need_index
      uv=(false)
    fi
  fi
  if ! tried with_uv --require-hashes -r "$lock"; then
    need_hashes requirements.lock
    need_index
    say "without uv: installing with pip, which takes longer"
    if ! tried with_pip --require-hashes -r "$lock"; then
      need_hashes requirements.lock
      why 'no matching distribution|could not find a version|not a supported wheel|requires a different python' || {
        explain
        die "set-up failed: the packages of requirements.lock cannot be installed here, for the reason above"
      }
      explain
      taken_from=environment.yml
    fi
  fi
  if [ "$taken_from" = environment.yml ] || ! "$venv/bin/python" -I "$environment" check >/dev/null; then
    [ "${FLOWCLIP_NEWEST:-}" = 1 ] ||
      die "set-up stopped: requirements.lock has not all packages for this Python and platform" \
        "($("$venv/bin/python" -V), $(uname -sm)). Take another Python with PYTHON=/path/to/python; or set" \
        "FLOWCLIP_NEWEST=1 for the newest versions that environment.yml allows, which no hash vouches for" \
        "and which may change results"
    taken_from=environment.yml
    say "WARNING: FLOWCLIP_NEWEST=1: taking the newest versions that environment.yml allows, WITHOUT HASHES," \
      "which may change results (every record says so)"
    "$venv/bin/python" -I "$environment" requirements >"$venv/requirements.txt"
    tried with_uv -r "$venv/requirements.txt" || tried with_pip -r "$venv/requirements.txt" || {
      need_index
      explain
      die "set-up failed: the packages of environment.yml cannot be installed here, for the reason above"
    }
  fi
}

set_up() {
  local python unfinished=
  trap 'exit 130' INT
  trap 'exit 143' TERM
  python=$(find_python)
  case $1 in # what is wrong with the command is said before minutes of installing
    test | lab | bench | extra) ;;
    *) PYTHONPATH=$here "$python" -P -m flowclip_kit.parser "$@" || exit 2 ;;
  esac
  ( : >>"$venv.lock" ) 2>/dev/null || die "cannot write to $here, where .venv belongs"
  exec 9>>"$venv.lock"
  "$python" -I "$environment" lock 9
  # Whoever held the lock may have done the work. Text in the lock file says that it was cut off: start afresh.
  if ! stamped; then
    [ ! -s "$venv.lock" ] || unfinished=yes
    echo "unfinished $(uname -n), PID $$" >&9
    if [ -n "$unfinished" ] || ! recent_enough "$venv/bin/python"; then
      say "making $venv with $("$python" -V)"
      "$python" -m venv --clear "$venv" >&2 || die "set-up failed: $python cannot make $venv, for the reason above"
    fi
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || quietly "$venv/bin/python" -m ensurepip
    install_packages
    say "loading them once"
    quietly loads || { show_log; die "set-up failed: the installed packages do not load here, for the reason above"; }
    "$venv/bin/python" -I "$environment" stamp "$taken_from"
    : >"$venv.lock"
    say "set-up complete, by $taken_from"
  fi
  exec 9>&-
  trap - INT TERM
}

add_extra() { # NAME: what the environment in use lacks of it; what is there stays as it is
  local pins
  pins=$("$python" -P "$environment" extra "$1") || exit 2
  if [ -z "$pins" ]; then say "extra $1: all of it is there"; return; fi
  lacking=$(mktemp)
  trap 'rm -f "$lacking"' EXIT
  printf '%s\n' "$pins" >"$lacking"
  if command -v uv >/dev/null 2>&1; then installer=(uv pip install --python "$python")
  else installer=("$python" -m pip install --no-input); fi
  # In the checkout, so that no project file of the caller's folder configures uv.
  (cd -- "$here" && "${installer[@]}" --require-hashes --no-deps -r "$lacking" >&2) ||
    die "extra $1: it cannot be installed here, for the reason above"
  say "extra $1: added to ${python%/bin/python}"
}

case ${1:-} in
  '' | -h | --help | help) show_help --help ;;
  bench) [ $# -ne 2 ] || case $2 in -h | --help) show_help bench --help ;; esac ;;
  *) for word in "$@"; do case $word in -h | --help) show_help "$1" --help ;; esac; done ;;
esac

if [ -n "${PYTHON:-}" ]; then recent_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer"; fi
case $here in *:*) die "a checkout's path must not hold a colon: $here" ;; esac

python=
for active in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
  if [ -z "$active" ] || [ "$active" -ef "$venv" ]; then continue; fi
  if "$active/bin/python" -P "$environment" check >/dev/null 2>&1; then
    python=$active/bin/python
    say "using the active environment $active"
    break
  fi
done
if [ -z "$python" ]; then
  stamped || set_up "$@"
  python=$venv/bin/python
fi

# PYTHONPATH rather than an installed copy: it serves any environment without changing it, and kernels inherit it.
export PYTHONPATH="$here"
export PATH="${python%/*}:$PATH" # for `python` in JupyterLab's terminals and cells
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export HF_HUB_DISABLE_TELEMETRY="${HF_HUB_DISABLE_TELEMETRY:-1}"

# Start-up files of the user's IPython would run in every kernel, and could end it.
own_ipython() {
  IPYTHONDIR=$("$python" -P -c 'from flowclip_kit.paths import cache_dir; print(cache_dir().absolute() / "ipython")')
  export IPYTHONDIR
}

# -P: a file of the caller's folder named like a module must not stand in for it.
case $1 in
  test)
    shift
    units=() browser=()
    while [ $# -gt 0 ]; do
      case $1 in
        --browser) browser=(--browser ${browser[@]+"${browser[@]}"}) ;;
        --screenshots)
          [ $# -gt 1 ] || die "test: --screenshots needs a folder"
          case $2 in /*) browser+=("$1" "$2") ;; *) browser+=("$1" "$PWD/$2") ;; esac
          shift ;;
        *) units+=("$1") ;;
      esac
      shift
    done
    cd -- "$here"
    own_ipython
    export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
    jobs=$("$python" -P -c 'from flowclip_kit.distributed.process_pool import default_jobs; print(min(8, default_jobs()))')
    apart=(-n "$jobs" --dist loadfile --no-loadscope-reorder) # a process a core; slow files, which come first, first
    code=0
    "$python" -P -m pytest "${apart[@]}" ${units[@]+"${units[@]}"} || code=$?
    "$python" -P -m pytest "${apart[@]}" --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks ||
      code=$((code ? code : $?))
    if [ "${browser[0]:-}" = --browser ]; then # last and alone: it measures
      [ -n "${CHROMIUM:-}" ] || find_chromium || say "skipped: no browser; install chromium, or name one with CHROMIUM"
      (add_extra browser) || say "skipped: no browser, for the reason above"
      "$python" -P -m pytest "${browser[@]}" tests/e2e/test_browser.py || code=$((code ? code : $?))
    fi
    exit "$code" ;;
  bench)
    shift
    [ -n "${1:-}" ] && [ -f "$here/flowclip_kit/bench/${1}.py" ] ||
      die "bench: which? There are: $(cd "$here/flowclip_kit/bench" && printf '%s ' [a-z]*.py | sed 's/\.py//g')"
    name=$1
    shift
    exec "$python" -P -m "flowclip_kit.bench.$name" ${1+"$@"} ;;
  extra)
    [ $# -eq 2 ] || die "extra: which? ray or browser"
    add_extra "$2" ;;
  lab)
    shift
    if [ "$(id -u)" = 0 ]; then
      case " $* " in *allow?root*) ;; *)
        die "lab: JupyterLab does not run as root unless told so: ./reproduce.sh lab --allow-root, or be another user" ;;
      esac
    fi
    own_ipython
    # -y: one Ctrl-C ends it, kernels and all. Jupyter makes the token that the address needs. A video of 200 MB may be
    # uploaded; beyond tornado's own 10 MiB the connection would drop without a word.
    exec "$python" -P -m jupyterlab -y --ip=127.0.0.1 --LabApp.default_url=/lab/tree/index.ipynb "$here/notebooks" \
      --ServerApp.tornado_settings="{'websocket_max_message_size': 268435456}" ${1+"$@"} ;;
  *)
    exec "$python" -P -m flowclip_kit "$@" ;;
esac
