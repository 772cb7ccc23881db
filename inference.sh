#!/usr/bin/env bash
# Lip-sync one video: ./inference.sh --help
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
[ -e "$root/.venv/installed-base" ] || "$root/setup_env.sh"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}" # threads that wait give their core to other processes soon
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m scripts.inference "$@"
