"""How far lips open with `--strength`, and in pauses with `--silence`: `python -m benchmarks.strength [--out FILE]`.

Unseen drawn heads are lip-synced with the demo models. `opening`: how far a wide mouth (the 90th percentile) opens above its mean
at strength 0, as a multiple of that at strength 1; `correlation`: of the opening with the truth of the audio. `pause`: mean, and
`pause max` the largest reading in the middle of a pause of 2 s, digital silence or room noise; `speech p10`: a reading that nine
tenths of those in speech exceed. Readings are the height of the lips over the distance of the eyes' corners.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import report
from latentsync.avatar.clip import read_openings
from latentsync.face.detection.detector import make_detector
from latentsync.inference.model_files import DEMO_UNET, distilled_companion
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import PRESETS, JobOptions, needs_distilled
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.testing import held_out_clips, lip_sync
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ
from scripts.command import run_command

STRENGTHS = (0.0, 0.5, 1.0, 1.5)
SILENCES = ("model", "close")
AUDIO_FROM = 3  # clip i gets the audio of clip i + AUDIO_FROM
SPEECH_SEC, PAUSE_SEC, EDGE_SEC = 1.2, 2.0, 0.5  # before and after a pause, the pause, and what is not its middle
ROOM_DB = -55.0


class Reader:
    """Lip-syncs clips with one preset, and reads the opening of the lips in every frame of the output."""

    def __init__(self, preset: str, folder: Path):
        unet = distilled_companion(DEMO_UNET) if needs_distilled({"preset": preset}) else DEMO_UNET
        self.pipeline = LipsyncPipeline(LipsyncModels.load(unet), make_detector())
        self.preset, self.folder, self.count = preset, folder, 0

    def __call__(self, video: Path, audio: Path, limit_sec: float | None, **entries: Any) -> NDArray[np.float32]:
        settings = self.pipeline.models.defaults.changed({"preset": self.preset, **entries})
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        return read_lips(lip_sync(self.pipeline, settings, video, audio, folder, JobOptions(limit_sec=limit_sec)).faces)


def strength_rows(reader: Reader, videos: Sequence[Path], count: int, sec: float) -> Iterator[dict[str, Any]]:
    """A row for each person and strength."""
    for index in range(count):
        video, audio = videos[index], videos[index + AUDIO_FROM]
        lips = {strength: reader(video, audio, sec, strength=strength) for strength in STRENGTHS}
        rest, truth = float(lips[0.0].mean()), read_openings(audio)
        wide = {strength: float(np.percentile(read, 90)) - rest for strength, read in lips.items()}
        for strength, read in lips.items():
            frames = min(len(read), len(truth))
            yield {
                "person": index,
                "strength": strength,
                "opening": round(wide[strength] / wide[1.0], 2),
                "correlation": round(correlation(read[:frames], truth[:frames]), 2),
            }


def pause_rows(reader: Reader, videos: Sequence[Path], count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each person, sound of the pause, and setting `silence`."""
    begin, end = (round(MODEL_FPS * sec) for sec in (SPEECH_SEC + EDGE_SEC, SPEECH_SEC + PAUSE_SEC - EDGE_SEC))
    for index in range(count):
        for sound in ("silence", "room"):
            audio = folder / f"{index}_{sound}.wav"
            write_wav(audio, with_pause(read_audio(videos[index + AUDIO_FROM]), ROOM_DB if sound == "room" else None))
            for silence in SILENCES:
                lips = reader(videos[index], audio, None, silence=silence)
                speech = np.concatenate([lips[: round(MODEL_FPS * SPEECH_SEC)], lips[-round(MODEL_FPS * SPEECH_SEC) :]])
                yield {
                    "person": index,
                    "pause": sound,
                    "silence": silence,
                    "mean": round(float(lips[begin:end].mean()), 4),
                    "std": round(float(lips[begin:end].std()), 4),
                    "pause max": round(float(lips[begin:end].max()), 4),
                    "speech p10": round(float(np.percentile(speech, 10)), 4),
                }


def with_pause(waveform: NDArray[np.float32], room_db: float | None) -> NDArray[np.float32]:
    """Speech, a pause and speech; with room noise of that level throughout."""
    samples, pause = round(SPEECH_SEC * SAMPLE_RATE_HZ), np.zeros(round(PAUSE_SEC * SAMPLE_RATE_HZ), np.float32)
    sound = np.concatenate([waveform[:samples], pause, waveform[samples : 2 * samples]])
    if room_db is None:
        return sound
    noise = np.random.default_rng(0).normal(0, 10 ** (room_db / 20), len(sound))
    return (sound + noise).astype(np.float32)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--sec", type=float, default=2.4, help="of each clip (default: %(default)s)")
    parser.add_argument("--preset", choices=PRESETS, default="turbo")
    parser.add_argument("--out", type=Path, help="JSON file to write; that of the pauses beside it")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reader, videos = Reader(args.preset, folder), held_out_clips(args.clips + AUDIO_FROM, folder / "clips")
        facts = {"preset": args.preset, "clips": args.clips, "sec": args.sec}
        report("strength", list(strength_rows(reader, videos, args.clips, args.sec)), args.out, **facts)
        pauses = list(pause_rows(reader, videos, args.clips, folder))
        report("silence", pauses, args.out and args.out.with_name(f"{args.out.stem}_silence.json"), **facts)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("strength", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
