"""Make the images of the documentation: `python -m scripts.make_figures [avatars|demo|detail|pair]`.

avatars: docs/avatars.png, 24 identities. pair: assets/demo_video.mp4 and assets/demo_audio.wav, from two held-out clips.
detail: docs/detail.png, a frame of the demo, and its result with decoded and matched colours, then with kept detail.
demo: docs/demo.png, the demo's input, result and ground truth: the same head, drawn with the lips of the new audio.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from matplotlib import pyplot as plt

from latentsync.avatar.clip import FRAME_SIZE, HELD_OUT_FIRST_SEED, AvatarClip, make_clip, random_clip
from latentsync.data.aligned import aligned_faces
from latentsync.face.detection.detector import make_detector
from latentsync.inference.models import DEMO_UNET, LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.metrics.lips.aperture import correlation, lip_apertures
from latentsync.testing import DEMO_AUDIO as AUDIO
from latentsync.testing import DEMO_VIDEO as VIDEO
from latentsync.testing import ROOT
from latentsync.timebase import MODEL_FPS
from scripts.command import run_command

VIDEO_SEED, AUDIO_SEED = HELD_OUT_FIRST_SEED + 120, HELD_OUT_FIRST_SEED + 107
SHEET_COLUMNS, SHEET_ROWS = 8, 3
SHOWN_FRAMES = 8
SHOWN_PX = 192
DETAIL_FRAME = 40


def most_open(clip: AvatarClip, within: int = 50) -> np.ndarray:
    """The first frame with more than 45 % of the largest mouth opening in the first `within` frames."""
    at = int(np.argmax(clip.mouth.aperture[:within] > 0.45 * clip.mouth.aperture[:within].max()))
    return next(islice(clip.frames(), at, None))


def save_png(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(path)


def avatars() -> None:
    tiles = [cv2.resize(most_open(random_clip(2000 + n)), (160, 160), interpolation=cv2.INTER_AREA) for n in range(24)]
    rows = [np.concatenate(tiles[r * SHEET_COLUMNS : (r + 1) * SHEET_COLUMNS], axis=1) for r in range(SHEET_ROWS)]
    save_png(ROOT / "docs/avatars.png", np.concatenate(rows))


def pair() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_clip(VIDEO_SEED, Path(folder)).rename(VIDEO)
    write_wav(AUDIO, random_clip(AUDIO_SEED).waveform)
    print(VIDEO, AUDIO)


def demo() -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.mp4"
        pipeline = LipsyncPipeline(LipsyncModels.load(DEMO_UNET), make_detector())
        pipeline(VIDEO, AUDIO, output)
        resolution = pipeline.models.resolution
        given, result = (np.stack(list(aligned_faces(v, make_detector(), resolution))) for v in (VIDEO, output))
        shots = np.linspace(8, len(result) - 8, SHOWN_FRAMES).astype(int)
        drawn = np.stack(list(aligned_faces(write_truth_video(Path(folder)), make_detector(), resolution)))
    truth = np.array(random_clip(AUDIO_SEED).truth()["aperture_px"])
    shown = [[faces[min(i, len(faces) - 1)] for i in shots] for faces in (given, result, drawn)]
    plot_demo(shown, lip_apertures(result), truth, shots)


def detail() -> None:
    pipeline, shown = LipsyncPipeline(LipsyncModels.load(DEMO_UNET), make_detector()), [frame_of(VIDEO)]
    settings, options = pipeline.models.defaults, JobOptions(limit_sec=DETAIL_FRAME / MODEL_FPS + 1)
    with tempfile.TemporaryDirectory() as folder:
        for colour, texture in (("decoded", "off"), ("matched", "off"), ("matched", "match")):
            output = Path(folder) / f"{colour}_{texture}.mp4"
            pipeline(VIDEO, AUDIO, output, settings.changed({"colour": colour, "texture": texture}), options)
            shown.append(frame_of(output))
    tiles = [cv2.resize(frame[60:, 30:226], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for frame in shown]
    save_png(ROOT / "docs/detail.png", np.concatenate(tiles, axis=1))


def frame_of(video: Path) -> np.ndarray:
    return next(islice(read_frames(video), DETAIL_FRAME, None)).frame


def write_truth_video(folder: Path) -> Path:
    """Draw the video's head with its own motion and the lips of the new audio; returns the file's path."""
    person, sound = random_clip(VIDEO_SEED), random_clip(AUDIO_SEED)
    count = min(len(person), len(sound))
    spoken = replace(person, mouth=sound.mouth, speech=sound.speech)
    path = folder / "truth.mp4"
    with VideoWriter(path, VideoFormat.constant(FRAME_SIZE, FRAME_SIZE, MODEL_FPS)) as writer:
        for frame in islice(spoken.frames(), count):
            writer.write(frame)
    return path


def plot_demo(shown: list[list[np.ndarray]], lips: np.ndarray, truth: np.ndarray, shots: np.ndarray) -> None:
    """Plot rows of frames (input, result, truth), and the curves of lip opening below them."""
    figure, (top, curves) = plt.subplots(2, 1, figsize=(12, 6), height_ratios=(1.3, 1), layout="constrained")
    rows = [np.concatenate([cv2.resize(face, (SHOWN_PX, SHOWN_PX)) for face in row], axis=1) for row in shown]
    middles = SHOWN_PX // 2 + SHOWN_PX * np.arange(len(shots))
    top.imshow(np.concatenate(rows))
    top.set_yticks(middles[: len(rows)], ["input", "result", "truth"])
    top.set_xticks(middles, [f"{i / MODEL_FPS:.2f} s" for i in shots])
    seconds = np.arange(len(lips)) / MODEL_FPS
    count = min(len(lips), len(truth))
    scale = truth[:count].std() / lips[:count].std()
    fitted = scale * (lips - lips[:count].mean()) + truth[:count].mean()
    curves.plot(seconds[:count], truth[:count], label="truth of the new audio")
    curves.plot(
        seconds, fitted, label=f"measured in the result (correlation {correlation(lips[:count], truth[:count]):.2f})"
    )
    curves.set(xlabel="seconds", ylabel="lip opening")
    curves.legend()
    figure.savefig(ROOT / "docs/demo.png", dpi=90)
    print(ROOT / "docs/demo.png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="any of avatars, pair, demo, detail (default: all but pair)")
    makers = {"avatars": avatars, "pair": pair, "demo": demo, "detail": detail}
    args = parser.parse_args(argv)

    def work() -> None:
        for name in args.what or ("avatars", "demo", "detail"):
            makers[name]()

    return run_command("make_figures", work)


if __name__ == "__main__":
    sys.exit(main())
