#!/usr/bin/env bash
# Makes .venv in this checkout hold the wanted extras at the versions of constraints.txt; does nothing if it does.
#
#   scripts/environment.sh EXTRA[,EXTRA...]          e.g. scripts/environment.sh offline,report
#
# TANDEM_PYTHON names the interpreter to build with; without it, the first of PYTHONS that is new enough.
# Extras add up: asking for one never takes another away. Two runs at once take turns. A run that was killed while
# it installed leaves a mark, and the next one starts from an empty environment, because pip takes a half-copied
# package for an installed one. Exit codes: 0 ready, 4 could not be made.
set -euo pipefail
unset CDPATH PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

PYTHONS="python3.11 python3.12 python3.13 python3.14 python3 python"
CPU_TORCH_INDEX="https://download.pytorch.org/whl/cpu" # PyTorch's own list of builds without CUDA

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
constraints="$root/scripts/constraints.txt"
stamp="$venv/.tandem-stamp"           # line 1: what it was installed from; line 2: the extras
unfinished="$venv/.tandem-unfinished" # there while packages are being copied
wanted="${1:-}"

say() { printf '[environment] %s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 4
}

is_new_enough() {
  "$1" -I -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local name
  if [[ -n "${TANDEM_PYTHON:-}" ]]; then
    is_new_enough "$TANDEM_PYTHON" || die "TANDEM_PYTHON=$TANDEM_PYTHON is no Python 3.11 or newer that runs"
    printf '%s\n' "$TANDEM_PYTHON"
    return
  fi
  for name in $PYTHONS; do # a name can be there and not run (pyenv), so each one is tried
    if is_new_enough "$name"; then
      printf '%s\n' "$name"
      return
    fi
  done
  die "found no Python 3.11 or newer (tried: $PYTHONS); install one, or name it with TANDEM_PYTHON=/path/to/python3"
}

torch_build() { # the build of torch that suits this machine: default (CUDA on Linux) or cpu
  if [[ "$(uname -s)" != Linux ]] || nvidia-smi -L >/dev/null 2>&1; then echo default; else echo cpu; fi
}

# Everything the environment depends on, as one hash. -S keeps it at 20 ms: it runs before every test and demo.
fingerprint() {
  "$venv/bin/python" -I -S -c '
import hashlib, sys
facts = hashlib.sha256(repr((sys.version, sys.argv[1:])).encode())
for name in sys.argv[3:]:
    with open(name, "rb") as file:
        facts.update(hashlib.sha256(file.read()).digest())
print(facts.hexdigest())' "$(torch_build)" "$root" "$constraints" "$root/pyproject.toml" "$root/scripts/environment.sh"
}

stamped_extras() { if [[ -f "$stamp" ]]; then sed -n 2p "$stamp"; fi; }

is_ready() {
  [[ -f "$stamp" && ! -e "$unfinished" && -x "$venv/bin/tandem" ]] || return 1
  [[ "$(sed -n 1p "$stamp")" == "$(fingerprint 2>/dev/null)" ]] || return 1
  local extra have
  have=",$(stamped_extras),"
  for extra in ${wanted//,/ }; do
    [[ "$have" == *",$extra,"* ]] || return 1
  done
}

union() { # two comma-separated lists -> one, sorted, each name once
  tr ',' '\n' <<<"$1,$2" | sed '/^$/d' | sort -u | paste -sd, -
}

# The lock lives on a file that is always there, so it leaves nothing behind; it ends with this process.
take_turns() {
  exec 9<"$root/pyproject.toml"
  local lock='import fcntl, sys; fcntl.flock(9, fcntl.LOCK_EX | (fcntl.LOCK_NB if sys.argv[1:] else 0))'
  if ! "$python" -I -S -c "$lock" at-once 2>/dev/null; then
    say "waiting for another run that is making this environment"
    "$python" -I -S -c "$lock"
  fi
}

# pip's output without the lines that say nothing and without addresses, which may be private to a company.
pip_install() { # pip_install all|attempt ARGUMENTS...   (attempt: its errors are not the last word)
  local mode="$1"
  shift
  "$venv/bin/python" -m pip install --progress-bar off -c "$constraints" "$@" 2>&1 | "$venv/bin/python" -I -u -c '
import re, sys
dull = ("Looking in", "Requirement already", "Using cached", "Obtaining", "Preparing", "Getting requirements",
        "Checking if", "Installing build", "WARNING: Location", "Processing", "Created", "Stored", "Building",
        "Attempting uninstall", "Found existing", "Uninstalling", "Successfully uninstalled")
if sys.argv[1] == "attempt":
    dull += ("ERROR", "WARNING")
for line in sys.stdin:
    if line.strip() and not line.strip().startswith(dull):
        line = re.sub(r"\S+://\S+", "<address>", line.rstrip())
        line = re.sub(r" \(from .*", "", line)
        print("  " + re.sub(r"host=\S+", "host=<host>,", line)[:160], file=sys.stderr)' "$mode"
}

make_venv() {
  local why=""
  if [[ -e "$unfinished" ]]; then
    why="the last installation was interrupted"
  elif [[ -e "$venv" ]] && ! { is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    why="the one that is there does not run"
  fi
  if [[ -n "$why" || ! -e "$venv" ]]; then
    say "a new .venv with $("$python" --version 2>&1)${why:+: $why}"
    "$python" -I -m venv --clear "$venv" >&2 ||
      die "$python could not make a virtual environment (on Debian and Ubuntu: apt-get install python3-venv)"
  fi
}

install_torch() {
  local version have
  version="$(sed -n 's/^torch==//p' "$constraints")"
  have="$("$venv/bin/python" -I -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true)"
  if [[ "$(torch_build)" == cpu ]]; then
    if [[ "$have" == "$version+cpu" ]]; then return; fi
    say "torch $version for the CPU (about 200 MB)"
    if pip_install attempt --no-deps "torch==$version+cpu"; then return; fi
    if pip_install attempt --no-deps --timeout 10 --retries 1 --index-url "$CPU_TORCH_INDEX" "torch==$version+cpu"; then
      return
    fi
    say "no build for the CPU alone can be reached; taking the default one, which brings CUDA along"
  fi
  if [[ "$have" != "$version" ]]; then
    say "torch $version (the default build)"
    pip_install all --no-deps "torch===$version" # === because == would also take a +cpu build
  fi
}

install() {
  local extras
  extras="$(union "$wanted" "$(stamped_extras)")"
  say "installing tandem-recommender[$extras] into $venv"
  touch "$unfinished"
  rm -f "$stamp"
  if ! { pip_install all hatchling editables && install_torch &&
    (cd "$root" && pip_install all --no-build-isolation -e ".[$extras]"); }; then
    rm -f "$unfinished" # pip ended by itself and has tidied up, so the next run may go on from here
    die "the installation failed (see above); run this again to go on where it stopped"
  fi
  { fingerprint && printf '%s\n' "$extras"; } >"$stamp.new"
  mv -f "$stamp.new" "$stamp"
  rm -f "$unfinished"
}

if is_ready; then exit 0; fi
trap 'exit 130' INT
trap 'exit 143' TERM
python="$(find_python)"
take_turns
if is_ready; then exit 0; fi
started=$SECONDS
make_venv
install
say "ready after $((SECONDS - started)) s"
