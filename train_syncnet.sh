#!/usr/bin/env bash
# Train the SyncNet: ./train_syncnet.sh --help; on several GPUs of one machine: NUM_PROCESSES=4 ./train_syncnet.sh ...
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
[ -e "$root/.venv/installed-requirements.txt" ] || "$root/setup_env.sh"
processes="${NUM_PROCESSES:-1}"
threads="$(($(getconf _NPROCESSORS_ONLN) / processes))" # without a number accelerate gives each process one thread
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m accelerate.commands.launch \
    --num_processes "$processes" --num_machines 1 --mixed_precision no --dynamo_backend no \
    --num_cpu_threads_per_process "${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}" \
    --module scripts.train_syncnet "$@"
