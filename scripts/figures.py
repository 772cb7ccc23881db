"""The images and clips of the documentation and the demo, see `scripts.make_figures`."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
from matplotlib import pyplot as plt

from latentsync.avatar import OCCLUDERS
from latentsync.avatar.clip import (
    FRAME_SIZE,
    HELD_OUT_FIRST_SEED,
    AvatarClip,
    make_clip,
    random_clip,
    read_openings,
    spoken_clip,
)
from latentsync.avatar.sound.sentences import random_sentence
from latentsync.data.aligned import aligned_faces
from latentsync.face.detection.detector import make_detector
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.places import DEMO_AUDIO as AUDIO
from latentsync.places import DEMO_VIDEO as VIDEO
from latentsync.places import SHIPPED as ROOT
from latentsync.testing import speaking
from latentsync.timebase import MODEL_FPS, samples_of_frames
from scripts.make_avatars import write_together

VIDEO_SEED, AUDIO_SEED = HELD_OUT_FIRST_SEED + 123, HELD_OUT_FIRST_SEED + 112
FILM_FRAMES, CUT = 160, 76  # of the demo's video: all, and those of the first shot
TURN = 0.35  # radians: in the second shot the head turns from one side to the other
SHEET_SEED, OCCLUDED_SEED = 2000, 2008  # first seeds of the people who are shown
SHEET_COLUMNS, SHEET_ROWS = 8, 3
SHOWN_FRAMES = 8
SHOWN_PX = 192
DETAIL_FRAME = 40
TALK_SEEDS, TALK_FRAMES = (HELD_OUT_FIRST_SEED, HELD_OUT_FIRST_SEED + 4), 64
TALK_SHOWN = (4, 14, 24, 38, 48, 58)  # frames


def most_open(clip: AvatarClip, within: int = 50) -> np.ndarray:
    """The first frame with more than 45 % of the largest mouth opening in the first `within` frames."""
    at = int(np.argmax(clip.mouth.aperture[:within] > 0.45 * clip.mouth.aperture[:within].max()))
    return next(islice(clip.frames(), at, None))


def save_png(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(path)


def avatars() -> None:
    people = (random_clip(SHEET_SEED + n) for n in range(SHEET_COLUMNS * SHEET_ROWS))
    tiles = [cv2.resize(most_open(person), (160, 160), interpolation=cv2.INTER_AREA) for person in people]
    rows = [np.concatenate(tiles[r * SHEET_COLUMNS : (r + 1) * SHEET_COLUMNS], axis=1) for r in range(SHEET_ROWS)]
    save_png(ROOT / "docs/avatars.png", np.concatenate(rows))


def occluders() -> None:
    columns = []
    for index, kind in enumerate(OCCLUDERS):
        clip = replace(random_clip(OCCLUDED_SEED + index), occluder=kind)
        frame, mask = max(islice(clip.frames_and_masks(), 30), key=lambda shown: float(shown[1].mean()))
        columns.append(np.concatenate([frame, np.repeat((255 * mask).astype(np.uint8)[..., None], 3, axis=2)]))
    save_png(ROOT / "docs/occluders.png", np.concatenate(columns, axis=1))


def pair() -> None:
    film, sound = two_sentences(VIDEO_SEED), two_sentences(AUDIO_SEED)
    with tempfile.TemporaryDirectory() as folder:
        voice = Path(folder) / "voice.wav"
        write_wav(voice, film.waveform[: samples_of_frames(FILM_FRAMES)])
        write_film(film, VIDEO, AudioSource(voice))
    write_wav(AUDIO, sound.waveform[: samples_of_frames(FILM_FRAMES)])
    print(VIDEO, AUDIO)


def two_sentences(seed: int) -> AvatarClip:
    """A held-out person who says two sentences."""
    rng = np.random.default_rng(seed)
    text = " ".join(random_sentence(rng, held_out=True) for _ in range(2))
    return spoken_clip(seed, text, rng)


def shots(film: AvatarClip) -> Iterator[np.ndarray]:
    """The frames of a film in two shots: the second is nearer, in another room, and the head turns."""
    motion, turn = film.motion, TURN * np.cos(np.linspace(0, np.pi, FILM_FRAMES - CUT))
    near = replace(
        motion,
        yaw=np.concatenate([motion.yaw[:CUT], turn]),
        gaze_x=np.concatenate([motion.gaze_x[:CUT], -turn]),
        scale=1.15 * motion.scale,
        shift_y=motion.shift_y - 1.5,
    )
    second = replace(film, motion=near, identity=replace(film.identity, texture_seed=film.identity.texture_seed + 1))
    return chain(islice(film.frames(), CUT), islice(second.frames(), CUT, FILM_FRAMES))


def write_film(film: AvatarClip, path: Path, sound: AudioSource | None = None) -> None:
    with VideoWriter(path, VideoFormat.constant(FRAME_SIZE, FRAME_SIZE, MODEL_FPS), sound) as writer:
        for frame in shots(film):
            writer.write(frame)


def demo() -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.mp4"
        pipeline = LipsyncPipeline(LipsyncModels.load(DEMO_UNET), make_detector())
        pipeline(VIDEO, AUDIO, output)
        resolution = pipeline.models.resolution
        given, result = (np.stack(list(aligned_faces(v, make_detector(), resolution))) for v in (VIDEO, output))
        shots = np.linspace(8, len(result) - 8, SHOWN_FRAMES).astype(int)
        drawn = np.stack(list(aligned_faces(write_truth_video(Path(folder)), make_detector(), resolution)))
    truth = two_sentences(AUDIO_SEED).mouth.aperture
    shown = [[faces[min(i, len(faces) - 1)] for i in shots] for faces in (given, result, drawn)]
    plot_demo(shown, read_lips(result), truth, shots)


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
    """Draw the film with its own motion and the lips of the new audio; returns the file's path."""
    path = folder / "truth.mp4"
    write_film(speaking(two_sentences(VIDEO_SEED), two_sentences(AUDIO_SEED)), path)
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


def dubbing() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = [make_clip(seed, folder, frames=TALK_FRAMES) for seed in TALK_SEEDS]
        film, result = folder / "talk.mp4", folder / "dubbed.mp4"
        write_together(clips, film)
        LipsyncPipeline(LipsyncModels.load(DEMO_UNET), make_detector())(film, film.with_suffix(".json"), result)
        lips = [[lips_of_person(video, person) for person in range(len(clips))] for video in (film, result)]
        frames = [each.frame for each in read_frames(result)]
        plot_dubbing([frames[index] for index in TALK_SHOWN], lips, [read_openings(clip) for clip in clips[::-1]])


def lips_of_person(video: Path, person: int) -> np.ndarray:
    """The lip opening of one of the heads that stand side by side, in each frame."""
    part = video.with_name(f"{video.stem}_{person}.mp4")
    with VideoWriter(part, VideoFormat.constant(FRAME_SIZE, FRAME_SIZE, MODEL_FPS)) as writer:
        for shown in read_frames(video):
            writer.write(np.ascontiguousarray(shown.frame[:, person * FRAME_SIZE : (person + 1) * FRAME_SIZE]))
    return read_lips(np.stack(list(aligned_faces(part, make_detector(), SHOWN_PX))))


def plot_dubbing(frames: list[np.ndarray], lips: list[list[np.ndarray]], truths: list[np.ndarray]) -> None:
    """Plot frames of the result, and for each person the lips of film and result, and the truth of the new audio."""
    figure, axes = plt.subplots(
        len(truths) + 1, 1, figsize=(12, 6), height_ratios=(1.1, *(1 for _ in truths)), layout="constrained"
    )
    axes[0].imshow(
        np.concatenate([cv2.resize(frame, (256, 128), interpolation=cv2.INTER_AREA) for frame in frames], axis=1)
    )
    axes[0].set_yticks([])
    axes[0].set_xticks(256 * np.arange(len(frames)) + 128, [f"{index / MODEL_FPS:.2f} s" for index in TALK_SHOWN])
    seconds, share = np.arange(TALK_FRAMES) / MODEL_FPS, TALK_FRAMES // len(truths)
    for person, (axis, truth) in enumerate(zip(axes[1:], truths, strict=True)):
        spoken = slice(person * share, (person + 1) * share)
        film, result, new = lips[0][person], lips[1][person], truth[:TALK_FRAMES]
        fits = [correlation(series[spoken], new[spoken]) for series in (result, film)]
        fitted = (new - new[spoken].mean()) * result[spoken].std() / new[spoken].std() + result[spoken].mean()
        axis.axvspan(spoken.start / MODEL_FPS, spoken.stop / MODEL_FPS, color="tab:green", alpha=0.12)
        axis.plot(seconds, film, color="0.6", label="the film")
        axis.plot(seconds, result, label="the result")
        axis.plot(seconds[spoken], fitted[spoken], "--", label="truth of the new audio")
        axis.set(ylabel=f"lips of person {person + 1}", xlim=(0, TALK_FRAMES / MODEL_FPS))
        axis.set_title(
            f"while speaking: correlation with the new audio {fits[0]:.2f} (the film's own lips {fits[1]:.2f})",
            fontsize=10,
        )
        print(f"person {person + 1}: {fits[0]:.2f} with the new audio, {fits[1]:.2f} in the film")
    axes[1].legend(loc="upper right", fontsize=8)
    axes[-1].set_xlabel("seconds")
    figure.savefig(ROOT / "docs/dubbing.png", dpi=80)
    print(ROOT / "docs/dubbing.png")


MAKERS = {"avatars": avatars, "occluders": occluders, "pair": pair, "demo": demo, "detail": detail, "dubbing": dubbing}
