"""What a job takes from its files: the tracks that are heard and seen, and the warnings about a sound that lips cannot follow."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.inference.batch import read_jobs
from latentsync.inference.jobs.job import LipsyncJob, check_job
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.preflight import preflight
from latentsync.inference.settings import JobOptions
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from scripts import inference
from scripts.inference import main
from tests.media.test_downmix import store_channels
from tests.media.test_tracks import DEFAULT, NONE, Pictures, Tone, store_tracks, tone_hz
from tests.support.media_clips import grey
from tests.support.tiny import make_video, read
from tests.support.whole_runs import FAST, command, tiny_pipeline, use_tiny_models

ROOT = Path(__file__).resolve().parents[2]
SPEECH = ROOT / "assets/demo_audio.wav"
NO_SPEECH, INAUDIBLE, CANCEL = "no speech", "too quiet", "cancel each other"
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "v.mp4", 10)


def warned(job: LipsyncJob) -> str:
    return " ".join(job.warnings)


SOUNDS = {
    "silence": (np.zeros(32_000), INAUDIBLE),
    "a very quiet voice": (read_audio(SPEECH) * 10 ** (-50 / 20), INAUDIBLE),
    "a tone": (0.3 * np.sin(np.arange(32_000) * 0.2), NO_SPEECH),
    "noise": (RANDOM.normal(0, 0.05, 48_000), NO_SPEECH),
    "hum": (0.1 * np.sign(np.sin(2 * np.pi * 50 * np.arange(32_000) / 16_000)), NO_SPEECH),
    "a quiet voice": (read_audio(SPEECH) * 10 ** (-26 / 20), ""),
    "a voice in a room": (read_audio(SPEECH) + RANDOM.normal(0, 0.012, len(read_audio(SPEECH))), ""),
    "a beat": (np.tile(np.concatenate([RANDOM.normal(0, 0.1, 2_000), np.zeros(6_000)]), 6), ""),
}


@pytest.mark.parametrize("kind", SOUNDS)
def test_sound_that_lips_cannot_follow_is_a_warning(tmp_path: Path, video: Path, kind: str) -> None:
    waveform, words = SOUNDS[kind]
    write_wav(tmp_path / "a.wav", waveform)
    job = check_job(video, tmp_path / "a.wav", tmp_path / "o.mp4")
    assert words in warned(job) and bool(job.warnings) == bool(words)


def test_what_the_networks_get_of_inverted_stereo_is_told_and_the_result_keeps_both(
    tmp_path: Path, video: Path, pipeline: LipsyncPipeline
) -> None:
    voice = read_audio(SPEECH, 48_000)[:19_200].astype(np.float64)
    audio = store_channels(tmp_path / "a.wav", [voice, -voice])
    job = check_job(video, audio, tmp_path / "o.mkv")
    assert CANCEL in warned(job) and np.abs(job.people[0].waveform).max() > 0.5 * np.abs(voice).max()
    report = pipeline.run(job, FAST)
    assert CANCEL in report.warnings[0]
    with av.open(str(job.output)) as made, av.open(str(audio)) as given:
        stored, own = (np.concatenate([f.to_ndarray().ravel() for f in file.decode(audio=0)]) for file in (made, given))
    np.testing.assert_array_equal(stored, own[: len(stored)])


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films, the second of which is the default one, and three sounds, likewise."""
    films = [Pictures(60, NONE, frames=25), Pictures(180, DEFAULT, frames=25)]
    return store_tracks(
        tmp_path_factory.mktemp("tracks") / "t.mkv", [*films, Tone(300), Tone(900, DEFAULT), Tone(1500)]
    )


@pytest.mark.parametrize(("options", "hz", "level"), [({}, 900, 180), ({"audio_track": 3, "video_track": 1}, 1500, 60)])
def test_a_track_is_what_the_network_hears_and_the_result_carries(
    tmp_path: Path, tracks: Path, pipeline: LipsyncPipeline, options: dict[str, int], hz: int, level: int
) -> None:
    job = check_job(tracks, tracks, tmp_path / "o.mkv", JobOptions(codec="ffv1", **options))
    assert abs(int(np.argmax(np.abs(np.fft.rfft(job.people[0].waveform[:8000])))) * 2 - hz) <= 4
    report = pipeline.run(job, FAST)
    assert abs(tone_hz(tmp_path / "o.mkv") - hz) <= 4
    assert abs(grey(read(tmp_path / "o.mkv")[0]) - level) <= 2
    with av.open(str(tmp_path / "o.mkv")) as made:
        assert len(made.streams.audio) == len(made.streams.video) == 1
        assert made.streams.audio[0].codec_context.name == "aac"
    told = [warning for warning in report.warnings if "tracks" in warning]
    assert bool(told) != bool(options)
    if told:
        assert "2 of 2 (h264, 64x48, default)" in told[0] and "2 of 3 (aac, mono, default)" in told[1]


def test_another_track_is_another_job(tmp_path: Path, tracks: Path, pipeline: LipsyncPipeline) -> None:
    keys = [
        json.dumps(
            pipeline._key(check_job(tracks, tracks, tmp_path / "o.mkv", JobOptions(**options)), FAST), default=str
        )
        for options in ({}, {"audio_track": 1}, {"audio_track": 2}, {"video_track": 1}, {})
    ]
    assert len(set(keys)) == 4 and keys[0] == keys[-1]


def test_the_command_line_tells_warnings_once_and_before_models_are_loaded(
    tmp_path: Path,
    video: Path,
    tracks: Path,
    pipeline: LipsyncPipeline,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before: list[str] = []
    monkeypatch.setattr(inference, "load_pipeline", lambda args: before.append(capsys.readouterr().out) or pipeline)
    assert main(command(video, tracks, tmp_path / "o.mp4")) == 0
    after = capsys.readouterr().out
    assert before[0].count("2 of 3 (aac, mono, default)") == 1 and before[0].count(NO_SPEECH) == 1
    assert "2 of 3" not in after and NO_SPEECH not in after
    stored = json.loads((tmp_path / "o.report.json").read_text(encoding="utf-8"))
    assert "2 of 3" in stored["warnings"][0] and NO_SPEECH in stored["warnings"][1]


def test_a_look_before_the_work_tells_them_too(
    tmp_path: Path, video: Path, tracks: Path, pipeline: LipsyncPipeline
) -> None:
    report = preflight(pipeline, check_job(video, tracks, tmp_path / "o.mp4"))
    assert "2 of 3" in report.warnings[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--audio_track", "4"], "has no audio track 4. It has 1 (aac, mono), 2 (aac, mono, default), 3 (aac, mono)"),
        (["--audio_track", "0"], "audio_track is 0: choose 1"),
        (["--video_track", "2"], "has no video track 2. It has 1 (h264, "),
    ],
)
def test_a_wrong_number_of_a_track_is_one_sentence(
    tmp_path: Path,
    video: Path,
    tracks: Path,
    pipeline: LipsyncPipeline,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    use_tiny_models(monkeypatch, pipeline)
    assert main([*command(video, tracks, tmp_path / "o.mp4"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.csv", "video,audio,output,audio_track,video_track\nv.mp4,t.mkv,o.mp4,3,\n"),
        ("jobs.jsonl", '{"video": "v.mp4", "audio": "t.mkv", "output": "o.mp4", "audio_track": 3}\n'),
    ],
)
def test_a_list_of_jobs_chooses_tracks(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_jobs(tmp_path / name)[0].options == {"audio_track": 3}
    (tmp_path / name).write_text(text.replace("3", "0.5"), encoding="utf-8")
    with pytest.raises(ValueError, match="job 1"):
        read_jobs(tmp_path / name)
