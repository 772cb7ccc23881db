"""Ranges of a film: only they are read and edited, each with its part of the audio; everything else stays as it is."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.inference.batch import read_jobs
from latentsync.inference.faces.plan import FacePolicy, plan_faces
from latentsync.inference.faces.tracks import track_faces
from latentsync.inference.jobs import source
from latentsync.inference.jobs.job import check_job
from latentsync.inference.jobs.ranges import parse_ranges
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.preflight import preflight
from latentsync.inference.settings import JobOptions
from latentsync.media.video.mux import OutputFile
from latentsync.media.video.read import frame_times
from scripts.inference import main
from tests.media.test_film import decoded, heard
from tests.support.media_clips import store
from tests.support.tiny import StubDetector, make_audio, make_video, read, scene
from tests.support.whole_runs import FAST, command, short_output_segments, tiny_pipeline, use_tiny_models

COUNT = 100  # frames of the film, 4 s
RATE_HZ = 48_000
OUTSIDE = "outside the ranges"


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of H.264 with a key frame every 20 frames, and AAC."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    frames = [scene(index) for index in range(COUNT)]
    options = {"x264-params": "keyint=20:min-keyint=20:scenecut=0:bframes=2"}
    silent = store(path.with_name("silent.mp4"), frames, options=options, gop=20)
    with av.open(str(silent)) as pictures, av.open(str(path), "w") as container:
        copied = container.add_stream_from_template(pictures.streams.video[0], opaque=True)
        sound = container.add_stream("aac", rate=RATE_HZ, options={"aac_pns": "0"})
        sound.codec_context.layout = "mono"
        for packet in pictures.demux(video=0):
            if packet.size:
                packet.stream = copied
                container.mux(packet)
        tone = 0.3 * np.sin(2 * np.pi * 200 * np.arange(4 * RATE_HZ) / RATE_HZ)
        frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
        resampler = av.AudioResampler("fltp", "mono", RATE_HZ, 1024)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(sound.encode(part))
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_audio(tmp_path_factory.mktemp("voice") / "voice.wav", 2.0)


def test_only_the_ranges_change(tmp_path: Path, pipeline: LipsyncPipeline, film: Path, voice: Path) -> None:
    output = tmp_path / "o.mp4"
    report = pipeline(film, voice, output, FAST, JobOptions(ranges="1.0-1.6 2.6-3.0"))
    before, after = decoded(film), decoded(output)
    encoded = [index for start, stop in report.encoded for index in range(start, stop)]
    assert [stop for _, stop in report.encoded] == [40, 80]
    assert [index for index in range(COUNT) if not np.array_equal(before[index][1], after[index][1])] == encoded
    assert frame_times(output) == frame_times(film)
    edited = [index for index, frame in enumerate(report.per_frame) if frame.edited]
    assert edited == [*range(25, 40), *range(65, 75)]
    assert report.actions[OUTSIDE] == COUNT - len(edited)
    assert report.new_sound_sec == ((1.0, 1.6), (2.6, 3.0))
    assert "0.00-0.60 s at 1.00 s, 0.60-1.00 s at 2.60 s" in report.length
    count = 4 * RATE_HZ - 1024
    differ = np.flatnonzero((heard(film)[:, :count] != heard(output)[:, :count]).any(axis=0)) / RATE_HZ
    gap = np.flatnonzero(np.diff(differ) > 0.5)
    assert 1.0 <= differ[0] < 1.05 and 1.55 < differ[gap[0]] < 1.6
    assert 2.6 <= differ[gap[0] + 1] < 2.65 and 2.95 < differ[-1] < 3.0


def test_edited_frames_are_those_of_a_job_with_the_cut_out_part(
    tmp_path: Path, pipeline: LipsyncPipeline, film: Path, voice: Path
) -> None:
    """Pictures and audio of a range meet as in a job of their own, whatever is around them."""
    options = JobOptions(ranges="1.0-1.8@0.5", codec="ffv1")
    report = pipeline(film, voice, tmp_path / "o.mkv", FAST, options)
    assert "codec ffv1 is asked for" in " ".join(report.warnings)
    part = store(tmp_path / "part.mkv", read(film)[25:45], codec="ffv1", pixel_format="bgr0")
    with av.open(str(voice)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0, 8000:20800]
    cut = tmp_path / "cut.wav"
    with av.open(str(cut), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
    pipeline(part, cut, tmp_path / "p.mkv", FAST, JobOptions(codec="ffv1"))
    whole, own = read(tmp_path / "o.mkv"), read(tmp_path / "p.mkv")
    middle = range(5, 15)  # without the fades at the borders
    assert all(np.abs(whole[25 + index].astype(int) - own[index]).max() <= 2 for index in middle)


def test_frames_fade_in_and_out_at_the_borders_of_a_range(film: Path, voice: Path, pipeline: LipsyncPipeline) -> None:
    job = check_job(film, voice, film.with_name("o.mp4"), JobOptions(ranges="1.0-2.0"))
    plan = pipeline.plans(job, pipeline.track_faces(job))[0]
    weight = plan.weight[25:50]
    assert 0 < weight[0] < weight[1] < weight[2] < 1 == weight[12] and np.allclose(weight, weight[::-1], atol=1e-6)
    assert not plan.weight[:25].any() and not plan.weight[50:].any()


def test_only_the_ranges_are_read(
    film: Path, voice: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read_parts: list[tuple[int, int]] = []
    frames = source.read_frames

    def noted(path: object, start: int, stop: int, *others: object) -> object:
        read_parts.append((start, stop))
        return frames(path, start, stop, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "read_frames", noted)
    job = check_job(film, voice, tmp_path / "o.mp4", JobOptions(ranges="1.0-1.6 2.6-3.0"))
    sheet = tmp_path / "sheet.jpg"
    report = preflight(pipeline, job, FAST, sheet)
    assert read_parts[:2] == [(25, 40), (65, 75)]
    assert all(start in (*range(25, 40), *range(65, 75)) for start, _ in read_parts) and sheet.is_file()
    assert report.actions == {OUTSIDE: 75, "would be edited": 25}
    assert [start for start, _ in report.encoded] == [frames.start for frames in job.encoded]


def test_gaps_between_ranges_are_not_bridged(film: Path, voice: Path, pipeline: LipsyncPipeline) -> None:
    job = check_job(film, voice, film.with_name("o.mp4"), JobOptions(ranges="1.0-1.4 1.6-2.0"))
    plan = pipeline.plans(job, pipeline.track_faces(job))[0]
    assert np.flatnonzero(plan.edited).tolist() == [*range(25, 35), *range(40, 50)]
    strict = replace(job, options=replace(job.options, on_missing_face="error"))
    assert pipeline.plans(strict, pipeline.track_faces(strict))[0].edited.sum() == 20


def test_tracks_end_with_a_range() -> None:
    parts = [range(5, 9), range(20, 24)]
    tracks = track_faces((scene(0) for _ in range(8)), StubDetector(), parts=parts, frame_count=30)
    assert tracks.frame_count == 30 and tracks.frame.tolist() == [*parts[0], *parts[1]]
    assert tracks.track.tolist() == [0] * 4 + [1] * 4
    plan = plan_faces(tracks, [0, 1], FacePolicy(), [index / 25 for index in range(31)], 64, parts)
    assert set(plan.action[9:20]) == {OUTSIDE}


def test_a_range_that_covers_everything_is_the_usual_job(
    tmp_path: Path, pipeline: LipsyncPipeline, film: Path, voice: Path
) -> None:
    audio = make_audio(tmp_path / "a.wav", 4.0)
    results = []
    for name, ranges in (("x", "0-4"), ("y", "")):
        pipeline(film, audio, tmp_path / f"{name}.mp4", FAST, JobOptions(ranges=ranges))
        results.append((tmp_path / f"{name}.mp4").read_bytes())
    assert results[0] == results[1]


def test_a_stopped_job_resumes_to_the_same_bytes(
    tmp_path: Path, pipeline: LipsyncPipeline, film: Path, voice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_output_segments(monkeypatch)
    options = JobOptions(ranges="0.9-1.7 2.5-3.1")
    pipeline(film, voice, tmp_path / "calm.mp4", FAST, options)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "Generate lips" and done >= 30:
            raise KeyboardInterrupt

    output = tmp_path / "o.mp4"
    with pytest.raises(KeyboardInterrupt):
        pipeline(film, voice, output, FAST, options, stop)
    written = len(list((tmp_path / "o.mp4.job").glob("part_*.mp4")))
    assert written > 0 and not output.exists()
    with monkeypatch.context() as broken:
        broken.setattr(OutputFile, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipeline(film, voice, output, FAST, options)
    pipeline(film, voice, output, FAST, options)
    assert output.read_bytes() == (tmp_path / "calm.mp4").read_bytes()


def test_a_film_without_sound_is_silent_around_the_ranges(
    tmp_path: Path, pipeline: LipsyncPipeline, voice: Path
) -> None:
    video = make_video(tmp_path / "v.mp4", 50)
    pipeline(video, voice, tmp_path / "o.mp4", FAST, JobOptions(ranges="0.5-1.5"))
    sound = np.abs(heard(tmp_path / "o.mp4")[0])
    loud = np.flatnonzero(sound > 0.05) / 16_000
    assert loud.min() > 0.45 and loud.max() < 1.55 and sound.max() > 0.2


def test_sound_that_cannot_be_copied_in_parts_is_encoded_and_said(
    tmp_path: Path, pipeline: LipsyncPipeline, film: Path, voice: Path
) -> None:
    with av.open(str(film)) as pictures, av.open(str(tmp_path / "v.mkv"), "w") as container:
        copied = container.add_stream_from_template(pictures.streams.video[0], opaque=True)
        sound = container.add_stream("flac", rate=RATE_HZ, layout="mono")
        for packet in pictures.demux(video=0):
            if packet.size:
                packet.stream = copied
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.full((1, 4 * RATE_HZ), 3000, np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        resampler = av.AudioResampler("s16", "mono", RATE_HZ, 4096)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux([packet for packet in sound.encode(part) if packet.size])
    report = pipeline(tmp_path / "v.mkv", voice, tmp_path / "o.mp4", FAST, JobOptions(ranges="1-2"))
    assert "encoded again as AAC" in " ".join(report.warnings)
    assert np.ptp(heard(tmp_path / "o.mp4")[0, RATE_HZ // 4 : RATE_HZ // 2]) < 0.01 and report.encoded[0][0] > 0


WRONG = {
    "1-": "cannot be read",
    "a-b": "cannot be read",
    "1-2-3": "cannot be read",
    "-1-2": "cannot be read",
    "2-1": "ends before it begins",
    "1-1": "ends before it begins",
    "1-1.1": "too short",
    "2-3 1-1.5": "without overlap",
    "1-3 2-4": "begins before range 1-3 ends",
    "3-9": "beyond the end of film.mp4, which lasts 4.00 s",
    "1-3.9": "needs voice.wav up to 2.90 s, but it lasts 2.00 s",
    "1-2@1.5": "needs voice.wav up to 2.50 s",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_range_is_one_sentence_before_the_work(
    tmp_path: Path, film: Path, voice: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(film, voice, tmp_path / "o.mp4"), f"--range={text}"]) == 2
    error = capsys.readouterr().err
    assert WRONG[text] in error and error.count("\n") == 1 and not (tmp_path / "o.mp4").exists()


def test_options_that_contradict_ranges(tmp_path: Path, film: Path, voice: Path) -> None:
    for options in (JobOptions(ranges="1-2", fps=Fraction(25)), JobOptions(ranges="1-2", limit_sec=1.0)):
        with pytest.raises(ValueError, match="leave out"):
            check_job(film, voice, tmp_path / "o.mp4", options)


def test_times_are_written_as_people_do() -> None:
    one, two = parse_ranges("0:01.5-1:02, 1:00:00-3601.25@2:00")
    assert (one.start_sec, one.stop_sec, one.sound_sec) == (Fraction(3, 2), 62, None)
    assert (two.start_sec, two.stop_sec, two.sound_sec) == (3600, Fraction(14405, 4), 120)
    assert parse_ranges("") == ()


def test_audio_that_runs_along_with_the_film_is_asked_for(tmp_path: Path, film: Path) -> None:
    audio = make_audio(tmp_path / "a.wav", 4.0)
    warned = check_job(film, audio, tmp_path / "o.mp4", JobOptions(ranges="1-2")).warnings
    assert "1-2@1" in " ".join(warned)
    job = check_job(film, audio, tmp_path / "o.mp4", JobOptions(ranges="2-4@2"))
    assert "lasts" not in " ".join(job.warnings) and job.ranges[0].sound_sec == 2


def test_the_command_and_lists_of_jobs(
    tmp_path: Path, pipeline: LipsyncPipeline, film: Path, voice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch, pipeline)
    assert main([*command(film, voice, tmp_path / "o.mp4"), "--range", "1-1.6", "2.6-3.0@1"]) == 0
    report = json.loads((tmp_path / "o.report.json").read_text(encoding="utf-8"))
    assert report["options"]["ranges"] == "1-1.6 2.6-3.0@1"
    assert [stop for _, stop in report["encoded"]] == [40, 80] and report["new_sound_sec"] == [[1.0, 1.6], [2.6, 3.0]]
    listed = tmp_path / "list.csv"
    listed.write_text(f"video,audio,output,ranges\n{film},{voice},p.mp4,1-1.6 2.6-3.0@1\n", encoding="utf-8")
    (entry,) = read_jobs(listed)
    assert entry.options == {"ranges": "1-1.6 2.6-3.0@1"}
    assert main(["--demo", "--inference_steps", "1", "--guidance_scale", "1", "--jobs", str(listed)]) == 0
    assert (tmp_path / "p.mp4").read_bytes() == (tmp_path / "o.mp4").read_bytes()
