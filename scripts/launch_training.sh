#!/usr/bin/env bash
# Run the Python module of a training, with accelerate's launcher for several processes; used by ./train_unet.sh and ./train_syncnet.sh.
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
[ -e "$root/.venv/installed-train" ] || "$root/setup_env.sh" train
processes="${NUM_PROCESSES:-1}"
config="${ACCELERATE_CONFIG:-}"
run=("$root/.venv/bin/python" -m)
if [ "$processes" != 1 ] || [ -n "$config" ]; then # a single process needs no launcher
    threads="$(($(getconf _NPROCESSORS_ONLN) / processes))" # accelerate's default is one thread per process
    run+=(scripts.launch accelerate.commands.launch --quiet --mixed_precision no --dynamo_backend no
        --num_cpu_threads_per_process "${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}"
        --config_file "${config:-$root/configs/accelerate/ddp.yaml}")
    # the user's own configuration sets the numbers of machines and processes
    [ -n "$config" ] || run+=(--num_machines 1 --main_process_port "${MAIN_PROCESS_PORT:-0}") # 0: any free port
    [ -z "${NUM_PROCESSES:-}" ] || run+=(--num_processes "$processes")
    run+=(--module)
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${run[@]}" "$@"
