"""Scores of who is found to speak in drawn conversations, see `scripts.score_speakers`.

Legend: n frames at 25 fps.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from latentsync.audio.speech_activity import FADE_SEC
from latentsync.avatar.clip import HELD_OUT_FIRST_SEED
from latentsync.avatar.conversation import KINDS, make_conversation, people_of
from latentsync.avatar.mouth import mouth_track
from latentsync.avatar.sound.sentences import random_sentence
from latentsync.avatar.sound.speech import Phoneme, random_voice, speak
from latentsync.face.align import Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import make_detector
from latentsync.face.detection.landmarks import points_from_landmarks
from latentsync.inference.faces.plan import FacePlan
from latentsync.inference.jobs.found_speakers import found_path
from latentsync.inference.jobs.job import LipsyncJob, check_job
from latentsync.inference.jobs.report import JobReport
from latentsync.inference.model_files import DEMO_UNET, distilled_companion
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import AUTO, JobOptions
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.timebase import MODEL_FPS, frames_in, samples_of_frames

RESOLUTION = 256  # px of the faces in which lips are measured
SEEN = 0.99  # share of the lips from which a frame counts
NOBODY = -1


@dataclass(frozen=True)
class SpeakerScore:
    """Frames of a conversation in which somebody speaks, and in how many of them the right face, or nobody's, was found.

    `people`: who are seen; `found`: as how many people they were found to speak. Fewer: two were taken for one.
    """

    video: str
    people: int
    found: int
    frames: int
    right: int
    named: int  # frames that are also right if each one found stands for one person only


@dataclass(frozen=True)
class LipsOfOne:
    """Correlations of a person's lips in a dubbed conversation, see `scripts.score_speakers`; they speak in `frames` frames."""

    video: str
    person: str
    frames: int
    own: float
    alone: float
    others: float


@dataclass(frozen=True)
class NewSpeech:
    """What a person says instead: a file, and how far the mouth of a drawn head opens with it, [n]."""

    path: Path
    aperture: NDArray[np.floating]


def drawn_conversations(folder: Path, count: int) -> list[Path]:
    """The conversations of held-out people, `count` of each kind; existing ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(kind, n) for kind in KINDS for n in range(count)]
    return [
        make_conversation(kind, HELD_OUT_FIRST_SEED + n, people_of(kind, n), folder, held_out=True)
        for kind, n in track(jobs, "Conversations")
    ]


def demo_pipeline(turbo: bool = False) -> LipsyncPipeline:
    """The demo models with the detector that finds drawn heads best."""
    models = LipsyncModels.load(distilled_companion(DEMO_UNET) if turbo else DEMO_UNET)
    return LipsyncPipeline(models, make_detector("mesh", alignment=models.alignment))


def score_speakers(videos: Sequence[Path], folder: Path) -> list[SpeakerScore]:
    """Find who speaks in each conversation; the result is written into `folder`, also where it was found before."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline, scores = demo_pipeline(), []
    for video in track(videos, "Who speaks"):
        output = folder / video.name
        job = check_job(video, video, output, JobOptions(speakers=AUTO), force=True)
        tracks = pipeline.track_faces(job)
        job = pipeline.with_found_speakers(job, tracks)
        scores.append(score_found(video, job, pipeline.plans(job, tracks)))
    return scores


def score_found(video: Path, job: LipsyncJob, plans: Sequence[FacePlan]) -> SpeakerScore:
    """Compare the speakers of a job with the truth."""
    truth = truth_of(video)
    seen = [not person["off_screen"] for person in truth["people"]]
    found, named = (np.full(truth["frames"], NOBODY) for _ in range(2))
    speaks = np.array([NOBODY if each is None else each for each in truth["speaker"]])
    middles = (np.arange(len(found)) + 0.5) / MODEL_FPS
    for speaker, plan in zip(job.people, plans, strict=True):
        person = person_of(plan, truth)
        within = np.any([(middles >= start) & (middles < stop) for start, stop in speaker.spans or ()], axis=0)
        found[within] = person[within]
        named[within] = np.bincount(person[within & (person >= 0)], minlength=1).argmax()
    wanted = np.where(np.isin(speaks, np.flatnonzero(seen)), speaks, NOBODY)
    spoken = speaks != NOBODY
    frames, right, right_name = (
        int(each.sum()) for each in (spoken, (found == wanted)[spoken], (named == wanted)[spoken])
    )
    return SpeakerScore(video.stem, sum(seen), len(job.people), frames, right, right_name)


def truth_of(video: Path) -> dict[str, Any]:
    """The truth of a drawn conversation, from the .json beside it."""
    truth: dict[str, Any] = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
    return truth


def person_of(plan: FacePlan, truth: Mapping[str, Any]) -> NDArray[np.int64]:
    """Which person of the truth the face of a plan is in each frame, [n]: the nearest; where it is not found, the usual one."""
    middle = (plan.box[:, :2] + plan.box[:, 2:]) / 2
    away = np.full((len(truth["people"]), len(plan)), np.inf)
    for number, frames in enumerate(truth["landmarks"]):
        for index, points in enumerate(frames):
            if points is not None and np.isfinite(middle[index]).all():
                away[number, index] = np.linalg.norm(np.mean(points, axis=0) - middle[index])
    known, nearest = np.isfinite(away).any(axis=0), away.argmin(axis=0)
    usual = int(np.bincount(nearest[known]).argmax()) if known.any() else NOBODY
    return np.where(known, nearest, usual)


def score_lips_of(videos: Sequence[Path], count: int, folder: Path) -> list[LipsOfOne]:
    """Dub `count` of the conversations, evenly chosen, and score the lips; who speaks was found in `folder` before."""
    if not count:
        return []
    chosen = [videos[index] for index in np.linspace(0, len(videos) - 1, min(count, len(videos))).round().astype(int)]
    pipeline = demo_pipeline(turbo=True)
    return [one for video in track(chosen, "Lips") for one in lips_of(pipeline, video, folder)]


def lips_of(pipeline: LipsyncPipeline, video: Path, folder: Path) -> list[LipsOfOne]:
    """Everybody who was found in a conversation gets new audio, together and each alone; the scores of each."""
    truth = truth_of(video)
    found = json.loads(found_path(folder / video.name).read_text(encoding="utf-8"))
    speech = {
        name: new_speech(folder / f"{video.stem}_{number}.wav", [truth["seed"], number], truth["frames"])
        for number, name in enumerate(found["people"])
    }
    settings = pipeline.models.defaults.changed({"preset": "turbo"})

    def dubbed(names: Sequence[str], kind: str) -> tuple[Path, JobReport]:
        content = {
            "people": {name: {**found["people"][name], "audio": speech[name].path.name} for name in names},
            "segments": [segment for segment in found["segments"] if segment["speaker"] in names],
        }
        speakers, output = (folder / f"{video.stem}_{kind}{end}" for end in (".json", ".mp4"))
        speakers.write_text(json.dumps(content), encoding="utf-8")
        return output, pipeline(video, speakers, output, settings, JobOptions(), force=True)

    output, report = dubbed(list(speech), "together")
    rows = []
    for number, name in enumerate(speech):
        alone, _ = dubbed([name], f"alone_{number}")
        own_spans, person = spans_of(found, name), person_at(report, name, truth)
        visible = np.array(truth["visible"][person]) >= SEEN
        speaking = visible & inside(own_spans, truth["frames"]) & edited_fully(report, name)
        lips = [measured(path, truth["landmarks"][person], visible) for path in (output, alone)]
        own, by_itself = (correlation(each[speaking], speech[name].aperture[speaking]) for each in lips)
        said = [
            correlation(
                lips[0][visible], (speech[other].aperture * inside(spans_of(found, other), len(visible)))[visible]
            )
            for other in speech
            if other != name and inside(spans_of(found, other), len(visible))[visible].any()
        ]
        others = max(said, default=0.0)
        rows.append(LipsOfOne(video.stem, name, int(speaking.sum()), own, by_itself, others))
    return rows


def spans_of(found: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    """When somebody of a found file speaks."""
    return [(each["start"], each["end"]) for each in found["segments"] if each["speaker"] == name]


def inside(spans: Sequence[tuple[float, float]], count: int) -> NDArray[np.bool_]:
    """bool [n]: whether a frame lies in one of the spans."""
    middles = (np.arange(count) + 0.5) / MODEL_FPS
    return np.any([(middles >= start) & (middles < stop) for start, stop in spans] or [np.zeros(count, bool)], axis=0)


def edited_fully(report: JobReport, name: str) -> NDArray[np.bool_]:
    """bool [n]: whether a person's new lips are shown in a frame without the film's own ones shining through.

    Beside frames that are not edited, where a face is half covered or nobody speaks, the new lips fade.
    """
    speaker = next(each for each in report.speakers if each.name == name)
    edited = np.array([frame.edited for frame in speaker.per_frame])
    near = np.convolve(~edited, np.ones(2 * frames_in(FADE_SEC) + 1), "same")
    return np.asarray(near == 0)


def person_at(report: JobReport, name: str, truth: Mapping[str, Any]) -> int:
    """Which person of the truth somebody of a report is: the one at whose face most of their frames were edited."""
    speaker = next(each for each in report.speakers if each.name == name)
    votes = np.zeros(len(truth["people"]))
    for frame in speaker.per_frame:
        if frame.edited and frame.box is not None:
            middle = (np.array(frame.box[:2]) + frame.box[2:]) / 2
            places = [points[frame.source] for points in truth["landmarks"]]
            away = [
                np.inf if each is None else float(np.linalg.norm(np.mean(each, axis=0) - middle)) for each in places
            ]
            votes[int(np.argmin(away))] += 1
    return int(votes.argmax())


def new_speech(path: Path, seed: Sequence[int], frames: int) -> NewSpeech:
    """Held-out sentences, one after the other, as long as a conversation, in a file."""
    rng = np.random.default_rng(seed)
    voice, waveform, phonemes, at = random_voice(rng), np.zeros(samples_of_frames(frames), np.float32), [], 0
    while at < frames:
        speech, start_sec = speak(random_sentence(rng, held_out=True), voice), at / MODEL_FPS
        first = samples_of_frames(at)
        room = waveform[first : first + len(speech.waveform)]
        room[:] = speech.waveform[: len(room)]
        phonemes += [Phoneme(p.symbol, p.start_sec + start_sec, p.end_sec + start_sec) for p in speech.phonemes]
        at += frames_in(speech.duration_sec)
    write_wav(path, waveform)
    return NewSpeech(path, mouth_track(phonemes, frames).aperture.astype(np.float64))


def measured(video: Path, landmarks: Sequence[Any], visible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far a person's lips are open in each frame, [n], by the true place of the face; NaN where it is not `visible`."""
    smoother, faces = Smoother(), []
    for shown, points, is_visible in zip(read_frames(video), landmarks, visible, strict=True):
        if is_visible:
            matrix = align_matrix(points_from_landmarks(np.array(points, np.float32), 1.0).points, RESOLUTION, smoother)
            faces.append(warp_face(shown.frame, matrix, RESOLUTION))
        else:
            smoother.reset()
    lips = np.full(len(visible), np.nan)
    lips[visible] = read_lips(np.stack(faces))
    return lips
