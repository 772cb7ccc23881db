#!/usr/bin/env bash
# What ./train_unet.sh and ./train_syncnet.sh share: run a training's MODULE, through accelerate where there are several processes.
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
[ -e "$root/.venv/installed-requirements.txt" ] || "$root/setup_env.sh"
processes="${NUM_PROCESSES:-1}"
config="${ACCELERATE_CONFIG:-}"
run=("$root/.venv/bin/python" -m)
if [ "$processes" != 1 ] || [ -n "$config" ]; then # one process needs no launcher
    threads="$(($(getconf _NPROCESSORS_ONLN) / processes))" # without a number accelerate gives each process one thread
    run+=(accelerate.commands.launch --quiet --mixed_precision no --dynamo_backend no
        --num_cpu_threads_per_process "${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}"
        --config_file "${config:-$root/configs/accelerate/ddp.yaml}")
    # a configuration of the user's own says how many machines and processes there are
    [ -n "$config" ] || run+=(--num_machines 1 --main_process_port "${MAIN_PROCESS_PORT:-0}") # 0: any that is free
    [ -z "${NUM_PROCESSES:-}" ] || run+=(--num_processes "$processes")
    run+=(--module)
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${run[@]}" "$@"
