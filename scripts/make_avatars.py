"""Make avatar clips with known truth: `python -m scripts.make_avatars --count 100 --out data/avatars`.

Every clip is NAME.mp4 (H.264, 25 fps, 16 kHz sound), and NAME.json (phonemes, mouth, landmarks, identity). A clip follows
from its seed alone; clips that exist are kept, so a stopped run goes on where it was.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from rich.progress import track

from latentsync.avatar.clip import FRAME_SIZE, HELD_OUT_FIRST_SEED, random_clip, write_truth
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.timebase import MODEL_FPS


def make_clip(seed: int, folder: Path) -> Path:
    """Write one clip; returns the path of its video. The truth is written last: where it exists, the clip is complete."""
    video, truth, sound = (folder / f"avatar_{seed:07d}{suffix}" for suffix in (".mp4", ".json", ".wav"))
    if truth.exists() and video.exists():
        return video
    clip = random_clip(seed)
    write_wav(sound, clip.waveform)
    with VideoWriter(video, VideoFormat.constant(FRAME_SIZE, FRAME_SIZE, MODEL_FPS), AudioSource(sound)) as writer:
        for frame in clip.frames():
            writer.write(frame)
    sound.unlink()
    write_truth(clip, truth)
    return video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, required=True, help="number of clips")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--first_seed", type=int, default=0, help="seed of the first clip")
    parser.add_argument("--held_out", action="store_true", help="identities and sentences that training never uses")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    first = args.first_seed + (HELD_OUT_FIRST_SEED if args.held_out else 0)
    seeds = range(first, first + args.count)
    with ProcessPoolExecutor(args.workers) as pool:
        for _ in track(pool.map(partial(make_clip, folder=args.out), seeds), "Avatars", total=args.count):
            pass


if __name__ == "__main__":
    main()
