#!/usr/bin/env bash
# Check that the metrics rank known degradations correctly: eval/eval_degradations.sh --help
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
[ -e "$root/.venv/installed-requirements.txt" ] || "$root/setup_env.sh"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m eval.eval_degradations "$@"
