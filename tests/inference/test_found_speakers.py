"""Who speaks when, found by lips and sound: the decision, whose face is whose, the file of the result, and whole jobs."""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentsync.inference.batch import read_jobs
from latentsync.inference.jobs.found_speakers import (
    SoughtSpeakers,
    check_found,
    faces_of,
    found_content,
    found_path,
    write_found,
)
from latentsync.inference.jobs.job import check_job
from latentsync.inference.jobs.speakers_file import read_speakers
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.preflight import BAR, EDITED, preflight, speaking_bars
from latentsync.inference.settings import JobOptions
from latentsync.inference.voices.decision import NOBODY, Span, sound_of_frames, spans_of, who_speaks
from latentsync.inference.voices.network import VoiceNetwork
from latentsync.inference.voices.scores import around_frames, frames_at_model_rate, voice_scores
from latentsync.media.container import MediaError
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.timebase import SAMPLE_RATE_HZ
from latentsync.weights import DEMO, CheckpointError
from scripts.inference import main
from tests.inference.test_speakers import HALF, TwoFaces
from tests.support.tiny import SIZE, make_audio, scene, tiny_models
from tests.support.whole_runs import FAST, LOSSLESS, QUICK_ARGS, use_tiny_models

COUNT = 75  # frames of the film, 3 s
SETTINGS = FAST
AUTO = replace(LOSSLESS, speakers="auto")


def alternating(*turns: tuple[int, int], people: int = 2) -> NDArray[np.float32]:
    """Scores of turns (person, frames), with noise: 0.85 for who speaks, 0.15 for the others."""
    rng, parts = np.random.default_rng(0), []
    for person, frames in turns:
        part = np.full((people, frames), 0.15)
        if person != NOBODY:
            part[person] = 0.85
        parts.append(part)
    whole = np.concatenate(parts, axis=1)
    return np.clip(whole + rng.normal(0, 0.15, whole.shape), 0, 1).astype(np.float32)


def test_who_fits_the_sound_speaks_and_nobody_if_no_one_does() -> None:
    turns = (0, 50), (1, 40), (NOBODY, 60), (0, 30)
    wanted = np.concatenate([np.full(frames, person) for person, frames in turns])
    found = who_speaks(alternating(*turns), np.ones(180, bool))
    assert (found != wanted).sum() <= 6
    assert (np.diff(found) != 0).sum() == 3


def test_short_doubts_covered_faces_and_silence_change_nothing() -> None:
    scores, sound = alternating((0, 100)), np.ones(100, bool)
    scores[:, 40:46] = scores[::-1, 40:46]
    scores[0, 60:72] = np.nan
    sound[80:95], scores[:, 80:95] = False, scores[::-1, 80:95]
    assert (who_speaks(scores, sound) == 0).all()
    scores[0, 20:] = np.nan  # has left
    assert (who_speaks(scores, sound)[-5:] == NOBODY).all()
    assert len(who_speaks(np.zeros((0, 3), np.float32), np.ones(3, bool))) == 3


def test_spans_have_margins_and_do_not_overlap() -> None:
    speaker = np.repeat([0, 1, NOBODY, 1], 50)
    audible, speech = np.ones(200, bool), np.ones(200, bool)
    audible[[*range(10), *range(44, 54), *range(96, 104), *range(190, 200)]] = False
    spans = spans_of(speaker, audible, speech)
    assert spans == [Span(0, 0.2, 1.96), Span(1, 1.96, 4.0), Span(1, 6.0, 7.8)]
    assert all(first.stop_sec <= second.start_sec for first, second in pairwise(spans))
    speech[70:85] = False  # a long pause
    assert [span.person for span in spans_of(speaker, audible, speech)] == [0, 1, 1, 1]
    audible[:] = False
    assert spans_of(speaker, audible, speech) == []


def test_the_sound_of_frames_is_that_of_their_middles() -> None:
    rng, times = np.random.default_rng(0), np.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    syllables = np.abs(np.sin(2 * np.pi * 2.5 * times)) ** 4
    waveform = (0.3 * syllables * rng.standard_normal(len(times)) * (times < 1.5)).astype(np.float32)
    audible, speech = sound_of_frames(waveform, 75)
    assert audible[:37].mean() > 0.7 and not audible[39:].any()
    assert speech[5:35].all() and not speech[55:].any()


def test_scores_belong_to_the_middles_of_windows_and_reach_to_the_ends() -> None:
    similar = np.arange(11, dtype=np.float32)
    assert around_frames(similar, 14, 4).tolist() == [0, 0, *range(11), 10]
    similar[3:9] = np.nan
    found = around_frames(similar, 14, 4)
    assert np.isnan(found).tolist() == [False] * 6 + [True] * 3 + [False] * 5
    assert np.isnan(around_frames(np.zeros(0, np.float32), 3, 4)).all()


@pytest.mark.parametrize(("fps", "wanted"), [(50, [1, 3, 5]), (25, [0, 1, 2]), (10, [0, 0, 1])])
def test_frames_of_any_rate_are_judged_at_25(fps: int, wanted: list[int]) -> None:
    times = [Fraction(frame, fps) for frame in range(fps * 2 + 1)]
    assert frames_at_model_rate(times)[:3].tolist() == wanted


class At:
    """A plan whose face fills the frame; in the frames `missing` it is not seen."""

    def __init__(self, count: int, missing: range = range(0)) -> None:
        self.matrices = np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1))
        self.matrices[missing.start : missing.stop] = np.nan

    def __len__(self) -> int:
        return len(self.matrices)


def test_scores_of_all_people_come_from_one_pass_at_any_rate() -> None:
    network = VoiceNetwork.load(DEMO / "syncnet.safetensors", torch.device("cpu"))
    frames = [np.random.default_rng(index).integers(0, 256, (64, 64, 3)).astype(np.uint8) for index in range(40)]

    def scores(shown: list[NDArray[np.uint8]], fps: int, *plans: At) -> NDArray[np.float32]:
        order = frames_at_model_rate([Fraction(frame, fps) for frame in range(len(shown) + 1)])
        return voice_scores(network, iter(shown), plans, order, speech_like(1.6), 64)  # type: ignore[arg-type]

    found = scores(frames, 25, At(40), At(40, range(20, 22)), At(40, range(40)))
    assert (
        found.shape == (3, 40) and np.isfinite(found[:2]).sum(axis=1).tolist() == [40, 38] and np.isnan(found[2]).all()
    )
    assert (found[0] >= 0).all() and (found[0] <= 1).all()
    doubled = [frame for frame in frames for _ in range(2)]
    np.testing.assert_allclose(scores(doubled, 50, At(80)), found[:1], atol=1e-5)


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        VoiceNetwork.load(tmp_path / "syncnet.safetensors", torch.device("cpu"))
    with pytest.raises(CheckpointError):
        VoiceNetwork.load(DEMO / "unet.safetensors", torch.device("cpu"))


def test_faces_are_assigned_by_common_time() -> None:
    voices = {1: [(0.0, 4.0), (8.0, 9.0)], 2: [(4.0, 8.0)], 3: [(9.0, 12.0)], 4: []}
    said = {"a": [(4.1, 7.9)], "b": [(0.2, 3.9), (8.0, 12.0)], "c": [(20.0, 30.0)]}
    assert faces_of(said, voices, lambda one, other: False) == {"a": 2, "b": [1, 3], "c": None}
    assert faces_of(said, voices, lambda one, other: True) == {"a": 2, "b": 1, "c": None}
    assert faces_of(said, {}, lambda one, other: False) == {"a": None, "b": None, "c": None}


def test_the_found_content_is_a_file_of_speakers(tmp_path: Path) -> None:
    sought = SoughtSpeakers(
        {"mix": "in/mix.wav", "people": {}, "segments": []}, tmp_path, tmp_path / "out/o.speakers.json"
    )
    content = found_content(sought, {2: [(1.0, 2.0), (4.0, 5.0)], 1: [(2.5, 3.0)], 3: []}, 4.5)
    assert content == {
        "mix": "../in/mix.wav",
        "people": {"person 1": {"face": 1}, "person 2": {"face": 2}},
        "segments": [
            {"speaker": "person 2", "start": 1.0, "end": 2.0},
            {"speaker": "person 1", "start": 2.5, "end": 3.0},
            {"speaker": "person 2", "start": 4.0, "end": 4.5},
        ],
    }
    with pytest.raises(ValueError, match="nobody who is seen speaks"):
        found_content(sought, {1: []}, 4.5)


def test_a_corrected_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "o.speakers.json"
    check_found(path, force=False)
    write_found(path, {"people": {"a": {"face": 1}}})
    check_found(path, force=False)
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(MediaError, match=r"changed since it was found.*--speakers o\.speakers\.json"):
        check_found(path, force=False)
    check_found(path, force=True)
    path.write_text("[]")
    with pytest.raises(MediaError, match="another program's"):
        check_found(path, force=False)


def speech_like(seconds: float) -> NDArray[np.float32]:
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    noise = np.random.default_rng(1).standard_normal(len(times))
    return (0.2 * np.abs(np.sin(2 * np.pi * 2.5 * times)) ** 2 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of two people, with sound, and a mix."""
    folder = tmp_path_factory.mktemp("auto")
    write_wav(folder / "own.wav", speech_like(COUNT / 25))
    with VideoWriter(
        folder / "film.mp4", VideoFormat.constant(2 * HALF, SIZE[0], 25), AudioSource(folder / "own.wav")
    ) as writer:
        for index in range(COUNT):
            writer.write(np.concatenate([scene(index // 2), scene(3 + index // 2)], axis=1))
    make_audio(folder / "mix.wav", 2.6)
    return folder


class Found(LipsyncPipeline):
    """Finds that the first person speaks in the first half, the second one in the second; counts how often it is asked."""

    asked = 0

    def _voices(self) -> Any:
        return None


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Found:
    found = Found(tiny_models(), TwoFaces())

    def scores(network: Any, frames: Any, plans: Any, order: NDArray[np.int64], *_: Any) -> NDArray[np.float32]:
        found.asked += 1
        assert len(plans) == 2 and all(plan.edited.all() for plan in plans)
        return alternating((0, 38), (1, len(order) - 38))

    monkeypatch.setattr("latentsync.inference.voices.find.voice_scores", scores)
    return found


def test_a_job_equals_that_of_the_file_that_it_found(pipeline: Found, folder: Path, tmp_path: Path) -> None:
    video, mix, output = folder / "film.mp4", folder / "mix.wav", tmp_path / "o.mp4"
    report = pipeline(video, mix, output, SETTINGS, AUTO)
    found = read_speakers(found_path(output))
    assert [person.faces for person in found.people] == [("1",), ("2",)]
    assert found.mix is not None and found.mix.resolve() == mix.resolve()
    edited = [np.flatnonzero([frame.edited for frame in each.per_frame]) for each in report.speakers]
    assert 30 < len(edited[0]) < 50 and edited[0].max() < 45 and edited[1].min() > 30
    assert any("o.speakers.json" in warning for warning in report.warnings)
    pipeline(video, found_path(output), tmp_path / "again.mp4", SETTINGS, LOSSLESS)
    assert output.read_bytes() == (tmp_path / "again.mp4").read_bytes() and pipeline.asked == 1


def test_a_stopped_job_does_not_search_again(pipeline: Found, folder: Path, tmp_path: Path) -> None:
    files = folder / "film.mp4", folder / "mix.wav"
    pipeline(*files, tmp_path / "whole.mp4", SETTINGS, AUTO)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "Generate lips":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pipeline(*files, tmp_path / "parts.mp4", SETTINGS, AUTO, stop)
    asked = pipeline.asked
    pipeline(*files, tmp_path / "parts.mp4", SETTINGS, AUTO)
    assert pipeline.asked == asked
    assert (tmp_path / "parts.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not (tmp_path / "parts.mp4.job").exists()


def test_diarised_voices_get_their_faces(pipeline: Found, folder: Path, tmp_path: Path) -> None:
    rttm = tmp_path / "talk.rttm"
    times = [(0.1, 1.3, "B"), (1.6, 0.9, "A")]
    lines = [f"SPEAKER film 1 {start} {length} <NA> <NA> {who} <NA> <NA>\n" for start, length, who in times]
    rttm.write_text("".join(lines))
    job = check_job(folder / "film.mp4", folder / "mix.wav", tmp_path / "o.mp4", replace(LOSSLESS, speakers=str(rttm)))
    assert job.sought is not None and sorted(job.sought.names) == ["A", "B"]
    preflight(pipeline, job, SETTINGS, tmp_path / "sheet.jpg")
    found = read_speakers(found_path(job.output))
    assert {person.name: person.faces for person in found.people} == {"A": ("2",), "B": ("1",)}
    report = pipeline.run(job, SETTINGS)
    assert [(each.name, each.face) for each in report.speakers] == [("A", ("2",)), ("B", ("1",))]
    pipeline(job.video, found_path(job.output), tmp_path / "again.mp4", SETTINGS, LOSSLESS)
    assert job.output.read_bytes() == (tmp_path / "again.mp4").read_bytes()
    content = {"people": {"x": {"face": "auto", "audio": "mix.wav"}, "y": {"face": 2}, "z": {"face": None}}}
    starts = [("x", 0.2), ("y", 1.6), ("z", 0.0)]
    segments = [{"speaker": name, "start": start, "end": start + 0.8, "audio": "mix.wav"} for name, start in starts]
    (folder / "some.json").write_text(json.dumps({**content, "segments": segments}))
    job = check_job(folder / "film.mp4", folder / "some.json", tmp_path / "p.mp4", LOSSLESS)
    with pytest.raises(AssertionError):  # only the person who has no face yet is looked at
        preflight(pipeline, job, SETTINGS)


def test_the_sheet_shows_who_speaks_when(pipeline: Found, folder: Path, tmp_path: Path) -> None:
    job = check_job(folder / "film.mp4", folder / "mix.wav", tmp_path / "o.mp4", AUTO)
    assert speaking_bars(job, 400) is None
    job = pipeline.with_found_speakers(job, pipeline.track_faces(job))
    bars = speaking_bars(job, 400)
    assert bars is not None and bars.shape == (3 * BAR, 400, 3)
    green = [(bars[row * BAR + BAR // 2] == EDITED).all(axis=-1) for row in range(2)]
    assert green[0].sum() > 60 and green[1].sum() > 60 and not (green[0] & green[1]).any()


def test_what_cannot_be_found_is_one_sentence_before_the_work(folder: Path, tmp_path: Path) -> None:
    make_audio(tmp_path / "mix.wav", 1.0)
    with VideoWriter(tmp_path / "silent.mp4", VideoFormat.constant(64, 64, 25)) as writer:
        for _ in range(5):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    output = tmp_path / "o.mp4"
    with pytest.raises(ValueError, match="no sound of its own"):
        check_job(tmp_path / "silent.mp4", tmp_path / "mix.wav", output, AUTO)
    with pytest.raises(ValueError, match="leave out face"):
        check_job(folder / "film.mp4", tmp_path / "mix.wav", output, replace(AUTO, face="2"))
    (tmp_path / "s.json").write_text(json.dumps({"people": {"a": {"face": "auto", "audio": "mix.wav"}}}))
    with pytest.raises(ValueError, match="the face of a is auto, which is found by segments"):
        check_job(folder / "film.mp4", tmp_path / "s.json", output, LOSSLESS)
    with pytest.raises(ValueError, match="leave out speakers"):
        check_job(folder / "film.mp4", tmp_path / "s.json", output, AUTO)
    segments = [{"speaker": "a", "start": 0, "end": 0.5, "audio": "mix.wav"}]
    content = {"people": {"a": {"face": "auto"}}, "segments": segments}
    found_path(output).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="would be replaced by the faces that it asks for"):
        check_job(folder / "film.mp4", found_path(output), output, LOSSLESS)
    found_path(output).unlink()
    (tmp_path / "empty.rttm").write_text("")
    with pytest.raises(ValueError, match="has no segments"):
        check_job(folder / "film.mp4", tmp_path / "mix.wav", output, JobOptions(speakers=str(tmp_path / "empty.rttm")))
    with pytest.raises(ValueError, match="choose auto"):
        JobOptions(speakers="everybody")
    job = check_job(folder / "film.mp4", tmp_path / "mix.wav", output, AUTO)
    with pytest.raises(CheckpointError, match="no SyncNet"):
        LipsyncPipeline(tiny_models(), TwoFaces()).run(job, SETTINGS)
    found_path(output).write_text("{}")
    with pytest.raises(MediaError, match="--force"):
        check_job(folder / "film.mp4", tmp_path / "mix.wav", output, AUTO)


def test_a_list_of_jobs_may_ask_for_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(
        "video,audio,speakers,output\na.mp4,m.wav,auto,o.mp4\na.mp4,m.wav,t.rttm,p.mp4\n"
    )
    first, second = read_jobs(tmp_path / "jobs.csv")
    assert first.options == {"speakers": "auto"} and first.audio == tmp_path / "m.wav"
    assert second.options == {"speakers": str(tmp_path / "t.rttm")}


def test_the_command_takes_a_mix_and_auto(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_models(monkeypatch, LipsyncPipeline(tiny_models(), TwoFaces()))
    files = ["--video_path", str(folder / "film.mp4"), "--video_out_path", str(tmp_path / "o.mp4")]
    args = [*files, "--speakers", "auto", *QUICK_ARGS]
    assert main(args) == 2 and "give it with --audio_path" in capsys.readouterr().err
    assert main([*args, "--audio_path", str(folder / "mix.wav")]) == 2
    assert "no SyncNet" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_finds_who_speaks_in_a_drawn_conversation(tmp_path: Path) -> None:
    """Two people change places, and one passes behind the other; the scores of twelve conversations are in docs/dubbing.md."""
    from latentsync.avatar.conversation import make_conversation
    from scripts.speaker_scores import score_speakers

    video = make_conversation("crossing", 1_000_000, 2, tmp_path, held_out=True)
    (score,) = score_speakers([video], tmp_path / "found")
    assert score.frames > 300 and score.right / score.frames >= 0.95
