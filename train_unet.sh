#!/usr/bin/env bash
# Train a U-Net: ./train_unet.sh --help. NUM_PROCESSES=4 for several GPUs (or, with --device cpu, processes) of
# one machine; ACCELERATE_CONFIG=configs/accelerate/fsdp.yaml for anything else that accelerate can do.
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
[ -e "$root/.venv/installed-requirements.txt" ] || "$root/setup_env.sh"
processes="${NUM_PROCESSES:-1}"
config="${ACCELERATE_CONFIG:-}"
[ -n "$config" ] || [ "$processes" = 1 ] || config="$root/configs/accelerate/ddp.yaml"
launch=(--num_machines 1 --main_process_port "${MAIN_PROCESS_PORT:-0}") # 0: any that is free
[ -z "${ACCELERATE_CONFIG:-}" ] || launch=()
[ -z "$config" ] || launch+=(--config_file "$config")
[ -z "${NUM_PROCESSES:-}" ] && [ -n "$config" ] || launch+=(--num_processes "$processes")
threads="$(($(getconf _NPROCESSORS_ONLN) / processes))" # without a number accelerate gives each process one thread
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m accelerate.commands.launch --quiet \
    --mixed_precision no --dynamo_backend no \
    --num_cpu_threads_per_process "${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}" \
    ${launch[@]+"${launch[@]}"} --module scripts.train_unet "$@"
