"""What an adapter gains for one person, and costs for others: `python -m benchmarks.adapter [--steps 300] [--person 15]`.

A drawn person whom the demo's networks do not know says sentences, on which an adapter is trained. Then this person, and others
whom no network knows, are lip-synced to sentences that are in no training, with the shipped U-Net alone and with the adapter.
`new audio`: correlation of the lip opening with the true one. `difference`: of the repainted face from the true video, mean of 255.
Clips, the adapter and the outputs are kept in --folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import Row, report
from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, AvatarClip, random_clip, random_motion, write_clip
from latentsync.avatar.mouth import mouth_track
from latentsync.avatar.sound.speech import speak
from latentsync.config import UNetRun, load
from latentsync.data.aligned import align_clip
from latentsync.face.detection.detector import make_detector
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.places import SHIPPED
from latentsync.testing import Synced, faces_at, held_out_clips, lip_sync, score_lips, write_speaking
from latentsync.timebase import frames_in
from latentsync.training.engine.distributed import Processes
from latentsync.training.unet.train import train_unet
from scripts.command import run_command

CONFIG = SHIPPED / "configs/unet/demo_stage2.yaml"
PEOPLE = 16  # held-out people, who also say the sentences that are scored
TEXTS_FROM = HELD_OUT_FIRST_SEED + 100  # the clips from this seed on give the sentences of training


def says(person: AvatarClip, text: str, number: int) -> AvatarClip:
    """The same person, who says `text` with other movements of the head."""
    assert person.voice is not None, "only people in conversations have none"
    speech = speak(text, person.voice)
    frames = frames_in(speech.duration_sec)
    motion = random_motion(frames, np.random.default_rng([person.seed, number]))
    return AvatarClip(
        person.seed, text, person.voice, person.identity, speech, mouth_track(speech.phonemes, frames), motion
    )


def training_clips(person: AvatarClip, count: int, scored: Sequence[str], resolution: int, folder: Path) -> Path:
    """The folder with aligned clips of `count` sentences, none of which is among those that are scored."""
    texts: list[str] = []
    for seed in range(TEXTS_FROM, TEXTS_FROM + 100 * count):  # there may be fewer sentences
        text = random_clip(seed).sentence
        if text not in (*scored, *texts):
            texts.append(text)
        if len(texts) == count:
            break
    for number, text in enumerate(texts):
        clip, video = says(person, text, number), folder / "drawn" / f"{number:02d}.mp4"
        if not video.exists():
            video.parent.mkdir(parents=True, exist_ok=True)
            write_clip(clip, video)
        align_clip(video, folder / "aligned" / video.name, make_detector(), resolution)
    return folder / "aligned"


def train_adapter(clips: Path, steps: int, rank: int, folder: Path) -> Path:
    """Path of the adapter that was trained on the clips."""
    places = [f"data.train_data_dir={clips}", f"data.cache_dir={folder}/cache", f"data.train_output_dir={folder}/run"]
    length = [f"train.max_steps={steps}", f"train.checkpoint_steps={steps}", "train.validation_steps=0"]
    base = [f"init_from={DEMO_UNET}", "trainable_modules=[]", "half_weights=false", f"adapter.rank={rank}"]
    run = load(
        CONFIG,
        UNetRun,
        [*places, *length, *base, "data.val_data_dir=", "data.num_workers=0", "train.learning_rate=1e-3"],
    )
    training = train_unet(run, Processes(cpu=True))
    path = folder / "adapter.safetensors"
    training.file.save(path, training.trainer.averaged_state(), training.trainer.step)
    return path


def difference(synced: Synced) -> float:
    """Mean absolute difference of the lower face from the true video, of 255."""
    truth = synced.output.with_stem(f"{synced.output.stem}_truth")
    count = write_speaking(synced.video, synced.audio, len(synced.shown), truth)
    right = faces_at(truth, synced.matrices[:count], synced.resolution)
    lower = slice(synced.resolution // 2, None)
    return float(np.abs(synced.faces[:count, lower].astype(float) - right[:, lower]).mean())


def row_of(who: str, made: Sequence[Synced], adapter: str) -> Row:
    """The scores of outputs, of which `who` says whose they are."""
    lips = [score_lips(synced).new for synced in made]
    row: dict[str, Any] = {"who": who, "adapter": "yes" if adapter else "no", "videos": len(made)}
    row |= {"new audio": round(float(np.mean(lips)), 3), "least": round(min(lips), 3)}
    return row | {"difference": round(float(np.mean([difference(synced) for synced in made])), 2)}


def bench(args: argparse.Namespace) -> None:
    clips = held_out_clips(PEOPLE, args.folder / "clips")
    audios = [(args.person + 8 + index) % PEOPLE for index in range(args.sentences)]
    others = [(args.person + 1 + index) % PEOPLE for index in range(args.others)]
    models = LipsyncModels.load(DEMO_UNET)
    person, *sayings = (random_clip(HELD_OUT_FIRST_SEED + index) for index in (args.person, *audios))
    aligned = training_clips(person, args.clips, [one.sentence for one in sayings], models.resolution, args.folder)
    adapter = train_adapter(aligned, args.steps, args.rank, args.folder)
    pipeline, rows = LipsyncPipeline(models, make_detector()), []
    for who, indices in (("the person", [args.person]), ("others", others)):
        for given in ("", str(adapter)):
            settings, output = (
                models.defaults.changed({"adapter": given}),
                args.folder / ("with" if given else "without"),
            )
            pairs = [(clips[index], clips[audio]) for index in indices for audio in audios if index != audio]
            made = [lip_sync(pipeline, settings, *pair, output, JobOptions()) for pair in pairs]
            rows.append(row_of(who, made, given))
    size_mb = round(adapter.stat().st_size / 1e6, 2)
    report("adapter", rows, args.out, steps=args.steps, rank=args.rank, clips=args.clips, adapter_mb=size_mb)
    print(f"{adapter}: {size_mb} MB")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=300, help="of the training (default: 300)")
    add("--rank", type=int, default=8, help="of the adapter (default: 8)")
    add("--clips", type=int, default=16, help="sentences that the person says in training (default: 16)")
    add("--person", type=int, default=15, choices=range(PEOPLE), help="which of the held-out people (default: 15)")
    add("--others", type=int, default=4, help="number of other people (default: 4)")
    add("--sentences", type=int, default=3, help="number of sentences that are scored (default: 3)")
    add(
        "--folder",
        type=Path,
        default=Path("runs/adapter"),
        help="of clips, adapter and outputs (default: runs/adapter)",
    )
    add("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    return run_command("adapter", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
