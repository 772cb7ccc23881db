#!/usr/bin/env bash
# Sync confidence and offset of videos: eval/eval_sync_conf.sh --help
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
[ -e "$root/.venv/installed-eval" ] || "$root/setup_env.sh" eval
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m eval.eval_sync_conf "$@"
