#!/usr/bin/env bash
# Run lint, type checks, import contracts and the fast tests; stop at the first failure. --all runs every test.
# Other arguments are passed to pytest: ./run_tests.sh -k media
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
selection=(-m "not slow")
if [[ "${1:-}" == --all ]]; then
    selection=()
    shift
fi
./setup_env.sh dev --checkpoints none
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

step() {
    local started=$SECONDS
    printf '\n== %s\n' "$*"
    "$@"
    printf -- '-- %s s\n' "$((SECONDS - started))"
}

step ruff check .
step ruff format --check .
step mypy latentsync scripts eval web benchmarks gradio_app.py
step lint-imports
printf '\n== pytest\n'
exec python -m pytest -n 2 ${selection[@]+"${selection[@]}"} "$@"
