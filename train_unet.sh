#!/usr/bin/env bash
# Train a U-Net: ./train_unet.sh --help. NUM_PROCESSES=4 uses four GPUs (with --device cpu: CPU processes) of one
# machine; ACCELERATE_CONFIG=FILE uses another configuration of accelerate, such as configs/accelerate/fsdp.yaml.
set -euo pipefail
exec "$(dirname -- "${BASH_SOURCE[0]}")/scripts/launch_training.sh" scripts.train_unet "$@"
