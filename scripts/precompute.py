"""Encode aligned clips once for U-Net training: `python -m scripts.precompute --input_dir ALIGNED --out CACHE`.

Stores every clip's latents, masked latents and audio features; finished clips are kept, so the command resumes.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from rich.progress import track

from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.audio.whisper_model import load_audio_encoder
from latentsync.data.aligned import aligned_clips
from latentsync.data.latents import precompute
from latentsync.face.masks import load_mask
from latentsync.models.vae import encode, load_vae
from latentsync.weights import DEMO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of aligned clips")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the auto-encoder")
    parser.add_argument("--vae", type=Path, default=DEMO / "vae.safetensors")
    parser.add_argument("--whisper", type=Path, default=DEMO / "whisper.pt")
    args = parser.parse_args()
    clips = aligned_clips(args.input_dir)
    vae = load_vae(args.vae)
    listen = WhisperFeatures(load_audio_encoder(args.whisper)).features
    mask = load_mask(clips[0].faces.shape[1])
    with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
        for clip in track(clips, "Precompute"):
            precompute(clip, args.out, partial(encode, vae), listen, mask)


if __name__ == "__main__":
    main()
