#!/usr/bin/env bash
# Make avatars of the people in a capture folder, show them and measure them: bash eval_mvhuman.sh [arguments of infer.py]
# Without arguments: the shipped checkpoint on the shipped capture. Installs the environment if it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source scripts/setup.sh
exec "$PYTHON" infer.py --evaluate "$@"
