#!/usr/bin/env bash
# Train all demo models from scratch: draw clips, then train speech encoder, auto-encoder, SyncNet, U-Net, distilled U-Net
# and small decoder, and score them. After an interruption the same command resumes. Each part says how long it took.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
data=data/demo out=checkpoints/demo

part() {
    local begun=$SECONDS
    echo "== $1"
    "${@:2}"
    echo "== $1: $(((SECONDS - begun + 30) / 60)) minutes"
}

part "drawing clips" "$python" -m scripts.make_avatars --count 240 --out $data/train
part "drawing more people" "$python" -m scripts.make_avatars --count 640 --first_seed 240 --frames 48 --out $data/train
part "drawing held-out clips" "$python" -m scripts.make_avatars --count 24 --held_out --out $data/held_out
for detector in cascade mesh; do # the models know the alignment of both
    part "aligning clips, $detector" \
        "$python" -m scripts.align_clips --detector $detector --input_dir $data/train --out $data/train_aligned/$detector
done
part "aligning held-out clips" "$python" -m scripts.align_clips --input_dir $data/held_out --out $data/held_out_aligned

part "speech encoder" "$python" -m scripts.train_whisper --config_path configs/demo/whisper.yaml --out $out/whisper.pt
part "auto-encoder" "$python" -m scripts.train_vae --config_path configs/demo/vae.yaml --out runs/demo/vae.safetensors \
    --validation_dir $data/held_out_aligned
part "its decoder against a critic" "$python" -m scripts.train_vae --config_path configs/demo/vae_decoder.yaml \
    --out $out/vae.safetensors --validation_dir $data/held_out_aligned
part "SyncNet" ./train_syncnet.sh --config_path configs/syncnet/demo.yaml --out $out/syncnet.safetensors

part "features" "$python" -m scripts.precompute --unet_config_path configs/unet/demo_stage2.yaml
part "U-Net, stage 1" ./train_unet.sh --unet_config_path configs/unet/demo_stage1.yaml \
    --out runs/demo/unet_stage1/unet.safetensors
part "U-Net, stage 2" ./train_unet.sh --unet_config_path configs/unet/demo_stage2.yaml --out $out/unet.safetensors
part "distilled U-Net" ./train_unet.sh --unet_config_path configs/unet/demo_turbo.yaml --out $out/unet_turbo.safetensors
part "small decoder" "$python" -m scripts.train_tiny_vae --config_path configs/demo/tiny_vae.yaml --vae $out/vae.safetensors \
    --out $out/tiny_vae.safetensors

part "scores" "$python" -m scripts.score_demo --json $out/scores.json
