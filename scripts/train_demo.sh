#!/usr/bin/env bash
# Train all demo models from scratch: draw clips, then train speech encoder, auto-encoder, SyncNet, U-Net, distilled U-Net
# and small decoder, and score them. After an interruption the same command resumes.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
data=data/demo out=checkpoints/demo

"$python" -m scripts.make_avatars --count 450 --out $data/train
"$python" -m scripts.make_avatars --count 24 --held_out --out $data/held_out
"$python" -m scripts.align_clips --input_dir $data/train --out $data/train_aligned
"$python" -m scripts.align_clips --input_dir $data/held_out --out $data/held_out_aligned

"$python" -m scripts.train_whisper --config_path configs/demo/whisper.yaml --out $out/whisper.pt
"$python" -m scripts.train_vae --config_path configs/demo/vae.yaml --out $out/vae.safetensors \
    --validation_dir $data/held_out_aligned
./train_syncnet.sh --config_path configs/syncnet/demo.yaml --out $out/syncnet.safetensors

"$python" -m scripts.precompute --unet_config_path configs/unet/demo_stage2.yaml
./train_unet.sh --unet_config_path configs/unet/demo_stage1.yaml --out runs/demo/unet_stage1/unet.safetensors
./train_unet.sh --unet_config_path configs/unet/demo_stage2.yaml --out $out/unet.safetensors
./train_unet.sh --unet_config_path configs/unet/demo_turbo.yaml --out $out/unet_turbo.safetensors
"$python" -m scripts.train_tiny_vae --config_path configs/demo/tiny_vae.yaml --vae $out/vae.safetensors \
    --out $out/tiny_vae.safetensors

"$python" -m scripts.score_demo
