#!/usr/bin/env bash
# Compare the outputs of several systems, as HTML and JSON: eval/report.sh --help
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
[ -e "$root/.venv/installed-eval" ] || "$root/setup_env.sh" eval
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m eval.report "$@"
