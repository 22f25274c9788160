#!/usr/bin/env bash
# Make avatars of captures, render and measure them: bash eval_mvhuman.sh [arguments of infer.py]
# Without arguments: the shipped checkpoint on the shipped capture. Installs the environment if necessary.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)" # no cd: arguments may be relative to the current folder
source "$root/scripts/setup.sh"
exec "$PYTHON" "$root/infer.py" --evaluate "$@"
