#!/usr/bin/env bash
# Make avatars of the people in a capture folder, show them and measure them: bash eval_mvhuman.sh [arguments of infer.py]
# Without arguments: the shipped checkpoint on the shipped capture. Installs the environment if it is not there.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)" # the caller's folder stays: arguments may be relative to it
source "$root/scripts/setup.sh"
exec "$PYTHON" "$root/infer.py" --evaluate "$@"
