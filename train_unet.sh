#!/usr/bin/env bash
# Train a U-Net: ./train_unet.sh --help. NUM_PROCESSES=4 for several GPUs (or, with --device cpu, processes) of
# one machine; ACCELERATE_CONFIG=configs/accelerate/fsdp.yaml for anything else that accelerate can do.
set -euo pipefail
exec "$(dirname -- "${BASH_SOURCE[0]}")/scripts/launch_training.sh" scripts.train_unet "$@"
