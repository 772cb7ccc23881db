#!/usr/bin/env bash
# Turn a folder of raw videos into training clips: ./data_processing_pipeline.sh --input_dir DIR [--help]
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
[ -e "$root/.venv/installed-data" ] || "$root/setup_env.sh" data
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m scripts.process_data "$@"
