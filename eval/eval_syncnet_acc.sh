#!/usr/bin/env bash
# Accuracy of a StableSyncNet on a data set: eval/eval_syncnet_acc.sh --help
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
[ -e "$root/.venv/installed-eval" ] || "$root/setup_env.sh" eval
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m eval.eval_syncnet_acc "$@"
