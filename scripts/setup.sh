#!/usr/bin/env bash
# Set-up of the environment, shared by eval_mvhuman.sh, train.sh and scripts/test.sh.
#
#   source scripts/setup.sh          sets PYTHON to an interpreter that has requirements.txt, installing it if needed
#   HGG_DEV=1 source scripts/setup.sh    the same with requirements-dev.txt (lint and tests)
#   bash scripts/setup.sh [--dev]    installs only
#
# An activated environment (venv or conda) that meets the requirements is used; otherwise `.venv` in the repository. pip's settings
# (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf) apply; HGG_PIP_ARGS is passed to pip install.
# The stamp in .venv is written last, so that an interrupted set-up resumes.

HGG_ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

_hgg_say() { printf '[set-up] %s\n' "$*" >&2; }

# The newest usable Python >= 3.10. Candidates are run, because version managers leave commands on PATH that do not work.
_hgg_find_python() {
    local name
    for name in python3.14 python3.13 python3.12 python3.11 python3.10 python3 python; do
        if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    _hgg_say "error: no Python 3.10 or newer with the venv module was found; install one (on Debian and Ubuntu: python3 and python3-venv)."
    return 2
}

_hgg_fingerprint() {
    "$1" -c 'import hashlib, pathlib, sys
print(hashlib.sha256(b"".join(pathlib.Path(p).read_bytes() for p in sys.argv[1:])).hexdigest())' "${@:2}"
}

# LPIPS weights belong to a metric, not to the model: without them everything runs, and a message says that the metric is off.
_hgg_lpips() {
    local weights="$HGG_ROOT/pretrained/lpips"
    if [ -f "$weights/vgg.safetensors" ] || [ -f "$weights/.unavailable" ] || [ ! -f "$HGG_ROOT/scripts/get_lpips.py" ]; then
        return 0
    fi
    _hgg_say "fetching the LPIPS weights (a download of 64 MB) into pretrained/lpips"
    if ! (cd "$HGG_ROOT" && "$PYTHON" scripts/get_lpips.py >&2); then
        mkdir -p "$weights" && touch "$weights/.unavailable"
        _hgg_say "the LPIPS weights could not be fetched: that metric stays off. Try again with: $PYTHON scripts/get_lpips.py"
    fi
}

_hgg_activated() {
    local prefix="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" missing
    if [ -z "$prefix" ] || [ ! -x "$prefix/bin/python" ] || [ "$prefix" = "$HGG_ROOT/.venv" ]; then
        return 1
    fi
    if missing="$("$prefix/bin/python" "$HGG_ROOT/scripts/check_requirements.py" "$@" 2>/dev/null)"; then
        PYTHON="$prefix/bin/python"
        return 0
    fi
    _hgg_say "the activated environment $prefix lacks: ${missing:-a Python >= 3.10}. Using $HGG_ROOT/.venv instead" \
        "(to use yours: pip install -r requirements.txt in it)."
    return 1
}

_hgg_install() { # the requirement files; the last includes the others
    local venv="$HGG_ROOT/.venv" files=("$@") stamp wanted base
    stamp="$venv/.installed-$(basename "${files[${#files[@]} - 1]}" .txt)"
    if [ -x "$venv/bin/python" ] && [ -f "$stamp" ]; then
        wanted="$(_hgg_fingerprint "$venv/bin/python" "${files[@]}" 2>/dev/null || true)"
        if [ -n "$wanted" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
            return 0
        fi
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        base="$(_hgg_find_python)" || return 2
        _hgg_say "making $venv with $("$base" --version)"
        "$base" -m venv --clear "$venv" || {
            _hgg_say "error: $base -m venv failed; install its venv module (on Debian and Ubuntu: python3-venv) and run this again."
            return 2
        }
    fi
    if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        _hgg_say "error: $venv has a Python older than 3.10; rename it, or activate an environment with a newer Python, and run this again."
        return 2
    fi
    if ! "$venv/bin/python" -c 'import torch' >/dev/null 2>&1; then
        _hgg_say "installing PyTorch and the other packages: on Linux x86-64 about 3.1 GB of downloads and 5.5 GB of disk, because" \
            "PyTorch's default build brings CUDA. (A CPU-only build, about 1.4 GB of disk: see README.md, Installation.)"
    fi
    # Wheels only: nothing is compiled, and no set-up code of packages runs.
    # shellcheck disable=SC2086  # HGG_PIP_ARGS holds several arguments
    "$venv/bin/python" -m pip install --only-binary :all: --disable-pip-version-check ${HGG_PIP_ARGS:-} \
        -r "${files[${#files[@]} - 1]}" >&2 || {
        _hgg_say "error: pip could not install the packages (its message is above); fix the cause and run this again: the set-up resumes."
        return 2
    }
    if [ "${#files[@]}" -gt 1 ]; then # the packages for the tests include all others
        _hgg_fingerprint "$venv/bin/python" "${files[0]}" >"$venv/.installed-requirements"
    fi
    _hgg_fingerprint "$venv/bin/python" "${files[@]}" >"$stamp.tmp" && mv "$stamp.tmp" "$stamp"
    _hgg_say "done; the environment is $venv"
}

hgg_setup() {
    local files=("$HGG_ROOT/requirements.txt")
    if [ "${1:-}" = "--dev" ]; then
        files+=("$HGG_ROOT/requirements-dev.txt") # includes requirements.txt by -r
    fi
    if ! _hgg_activated "${files[@]}"; then
        _hgg_install "${files[@]}" || return 2
        PYTHON="$HGG_ROOT/.venv/bin/python"
    fi
    export PYTHON
    _hgg_lpips
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    hgg_setup "$@"
else # sourced: the positional arguments belong to the caller
    hgg_setup ${HGG_DEV:+--dev}
fi
