#!/usr/bin/env bash
# Lint and tests, after the set-up if necessary: bash scripts/test.sh [--fast] [arguments of pytest]
# --fast omits tests that take about a second or more. Without other arguments, two processes share the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

HGG_DEV=1
source scripts/setup.sh

select=()
if [ "${1:-}" = "--fast" ]; then
    select=(-m "not slow")
    shift
fi

if [ $# -eq 0 ]; then
    select+=(-n 2 --dist loadfile --no-loadscope-reorder) # tests of a file share what is expensive to prepare
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest ${select[@]+"${select[@]}"} "$@"
