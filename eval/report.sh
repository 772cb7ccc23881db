#!/usr/bin/env bash
# Report of systems on clips, as HTML and JSON: eval/report.sh --help
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
[ -e "$root/.venv/installed-requirements.txt" ] || "$root/setup_env.sh"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m eval.report "$@"
