"""Several people in one job, by a file of speakers: who is edited when, with which audio, and the sound of the output."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from latentsync.face.align import FrameArray
from latentsync.face.detection.detector import Face
from latentsync.inference.batch import read_jobs
from latentsync.inference.jobs.job import check_job
from latentsync.inference.jobs.segments import plan_output_segments
from latentsync.inference.jobs.speakers_file import FILE, PERSON, SEGMENT, read_speakers
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.preflight import preflight
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.media.probe import sound_format
from latentsync.media.sound.mix import BLOCK, Placed, summed
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.places import SHIPPED
from scripts.inference import main
from tests.media.test_downmix import store_channels
from tests.media.test_film import heard
from tests.support.tiny import BOX, POINTS, SIZE, StubDetector, make_audio, read, scene, tiny_models
from tests.support.whole_runs import (
    FAST,
    KILLED,
    LOSSLESS,
    QUICK_ARGS,
    in_child,
    needs_fork,
    run_killed_at,
    short_output_segments,
    use_tiny_models,
)
from web.errors import WebError
from web.orders import Inspector
from web.settings import Limits

COUNT = 30  # frames of the film, 1.2 s
HALF = SIZE[1]  # columns of each person


class TwoFaces(StubDetector):
    """Finds the face of each half of `film`."""

    def faces(self, frame: FrameArray) -> list[Face]:
        aside = np.array([HALF, 0], np.float32)
        box = BOX[0] + HALF, BOX[1], BOX[2] + HALF, BOX[3]
        return [Face(POINTS, BOX, 1.0, 0), Face(POINTS + aside, box, 1.0, 1)]


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return LipsyncPipeline(tiny_models(), TwoFaces())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of two people, and what they say."""
    folder = tmp_path_factory.mktemp("dub")
    with VideoWriter(folder / "film.mp4", VideoFormat.constant(2 * HALF, SIZE[0], 25, crf=4)) as writer:
        for index in range(COUNT):
            writer.write(np.concatenate([scene(index // 2), scene(3 + index // 2)], axis=1))
    for name, seconds in (("a", 1.2), ("b", 1.2), ("short", 0.4)):
        make_audio(folder / f"{name}.wav", seconds)
    return folder


def write(folder: Path, content: Any, name: str = "speakers.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


ANNA = {"face": 1, "audio": "a.wav"}
TALK = {
    "people": {"bert": {"face": 2}, "anna": {"face": 1}},
    "segments": [
        {"start": 0, "end": 0.4, "speaker": "anna", "audio": "a.wav"},
        {"start": 0.72, "speaker": "bert", "audio": "short.wav"},
    ],
}


def halves(path: Path) -> tuple[np.ndarray, np.ndarray]:
    frames = np.stack(read(path))
    return frames[:, :, :HALF], frames[:, :, HALF:]


def test_one_person_of_a_file_gives_the_bytes_of_an_ordinary_job(
    tmp_path: Path, folder: Path, pipeline: LipsyncPipeline
) -> None:
    pipeline(folder / "film.mp4", folder / "a.wav", tmp_path / "a.mp4", FAST, JobOptions(face="1"))
    speakers = write(folder, {"people": {"anna": ANNA}}, "one.json")
    report = pipeline(folder / "film.mp4", speakers, tmp_path / "b.mp4", FAST)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert [(each.name, each.edited_sec) for each in report.speakers] == [("anna", [(0.0, 1.2)])]


def test_every_face_is_that_of_a_job_of_its_own(tmp_path: Path, folder: Path, pipeline: LipsyncPipeline) -> None:
    """Who speaks all along, beside others who do, has the same pixels as alone."""
    people = {
        "anna": {**ANNA, "silence": "model"},
        "bert": {"face": 2, "audio": "b.wav", "silence": "model", "strength": 0.5},
    }
    film = folder / "film.mp4"
    pipeline(film, write(folder, {"people": people}, "both.json"), tmp_path / "both.mkv", FAST, LOSSLESS)
    pipeline(film, folder / "a.wav", tmp_path / "anna.mkv", FAST, replace(LOSSLESS, face="1"))
    weaker = replace(FAST, strength=0.5)
    pipeline(film, folder / "b.wav", tmp_path / "bert.mkv", weaker, replace(LOSSLESS, face="2"))
    left, right = halves(tmp_path / "both.mkv")
    assert np.array_equal(left, halves(tmp_path / "anna.mkv")[0])
    assert np.array_equal(right, halves(tmp_path / "bert.mkv")[1])
    assert not np.array_equal(right, halves(film)[1])


def test_a_mask_is_in_front_of_the_face_that_it_covers_alone(
    tmp_path: Path, folder: Path, pipeline: LipsyncPipeline
) -> None:
    mask = np.zeros((SIZE[0], 2 * HALF), np.uint8)
    mask[:, : HALF // 2] = 255  # of the first face
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    people = {
        name: {"face": number, "audio": "a.wav", "silence": "model"} for number, name in enumerate(("anna", "bert"), 1)
    }
    film, options = folder / "film.mp4", replace(LOSSLESS, occlusion=str(tmp_path / "mask.png"))
    report = pipeline(film, write(folder, {"people": people}, "masked.json"), tmp_path / "o.mkv", FAST, options)
    everywhere = ((0.0, COUNT / 25),)
    assert [each.occluded_sec for each in report.speakers] == [everywhere, ()] and report.occluded_sec == everywhere
    left, right = (
        np.abs(after.astype(int) - before)
        for after, before in zip(halves(tmp_path / "o.mkv"), halves(film), strict=True)
    )
    edge = HALF // 2
    assert left[:, :, : edge - 4].max() <= 2 and left[:, :, edge:].max() > 20  # stored colours mix at the edge
    assert right[:, :, : edge - 4].max() > 20


def test_a_face_that_does_not_speak_is_untouched(tmp_path: Path, folder: Path, pipeline: LipsyncPipeline) -> None:
    film, output = folder / "film.mp4", tmp_path / "o.mkv"
    report = pipeline(film, write(folder, TALK), output, FAST, LOSSLESS)
    changed = [
        (after != before).any(axis=(1, 2, 3)) for after, before in zip(halves(output), halves(film), strict=True)
    ]
    # lips fade in and out within 0.16 s around what is said
    assert changed[0][:14].all() and not changed[0][14:].any()
    assert changed[1][15:].all() and not changed[1][:14].any()
    assert [each.name for each in report.speakers] == ["anna", "bert"]
    assert report.speakers[0].edited_sec == [(0.0, pytest.approx(0.56))]
    assert report.to_dict()["speakers"][1]["edited_frames"] == changed[1].sum()
    assert f"(anna 14, bert {changed[1].sum()})" in report.summary() and report.frames == COUNT


def test_the_order_of_people_does_not_change_a_byte(tmp_path: Path, folder: Path, pipeline: LipsyncPipeline) -> None:
    other = {"segments": TALK["segments"][::-1], "people": dict(sorted(TALK["people"].items()))}  # type: ignore[index,attr-defined]
    outputs = []
    for name, content in (("x", TALK), ("y", other)):
        outputs.append(tmp_path / f"{name}.mp4")
        pipeline(folder / "film.mp4", write(folder, content, f"{name}.json"), outputs[-1], FAST)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.slow
@needs_fork
def test_a_killed_job_resumes_to_the_same_bytes(
    tmp_path: Path, folder: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch, pipeline)
    short_output_segments(monkeypatch)
    files = f"--video_path={folder / 'film.mp4'}", f"--speakers={write(folder, TALK)}"
    command = [*QUICK_ARGS, *files]
    assert in_child(partial(main, [*command, f"--video_out_path={tmp_path / 'calm.mp4'}"])) == 0
    for change in (5, 12):
        killed = partial(main, [*command, f"--video_out_path={tmp_path / f'{change}.mp4'}"])
        assert run_killed_at(killed, change) == KILLED and (tmp_path / f"{change}.mp4.job").is_dir()
        assert in_child(killed) == 0
        assert (tmp_path / f"{change}.mp4").read_bytes() == (tmp_path / "calm.mp4").read_bytes()


def test_the_sound_is_the_sum_at_the_rate_and_channels_of_the_tracks(
    tmp_path: Path, folder: Path, pipeline: LipsyncPipeline
) -> None:
    times = np.arange(round(1.2 * 44_100)) / 44_100
    tone = (0.8 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    store_channels(tmp_path / "stereo.wav", [tone, 0.5 * tone], rate_hz=44_100)
    content = {
        "people": {
            "anna": {"face": 1, "audio": str(tmp_path / "stereo.wav")},
            "narrator": {"face": None, "audio": str(tmp_path / "stereo.wav")},
        }
    }
    job = check_job(folder / "film.mp4", write(folder, content, "sum.json"), tmp_path / "o.mp4")
    assert [speaker.name for speaker in job.people] == ["anna"]
    pipeline.run(job, FAST)
    assert sound_format(tmp_path / "o.mp4") == (44_100, 2)
    left, right = heard(tmp_path / "o.mp4")[:, 10_000:40_000]
    assert 0.9 < np.abs(left).max() <= 1.02 and 0.45 < np.abs(right).max() < 0.55  # together they would be 1.6


def test_a_mix_is_the_sound_and_what_segments_take(tmp_path: Path, folder: Path) -> None:
    content = {**TALK, "mix": "a.wav", "segments": [{"start": 0.4, "end": 0.8, "speaker": "bert"}]}
    content["people"] = {"bert": {"face": 2}}
    job = check_job(folder / "film.mp4", write(folder, content, "mix.json"), tmp_path / "o.mp4")
    assert job.sound.path == folder / "a.wav" and not job.sound.summed and float(job.sound_sec) == 1.2
    said = job.people[0].waveform
    assert not said[:6400].any() and not said[12800:].any() and len(said) == 19_200
    voice = check_job(folder / "film.mp4", folder / "a.wav", tmp_path / "p.mp4").people[0].waveform
    assert np.array_equal(said[6400:12800], voice[6400:12800])


def test_sums_are_exact_and_do_not_clip() -> None:
    rng = np.random.default_rng(0)
    voices = [rng.uniform(-0.7, 0.7, (2, 100_000)).astype(np.float32) for _ in range(2)]

    def chunks(voice: np.ndarray) -> Any:
        yield from (voice[:, start : start + 999] for start in range(0, 100_000, 999))

    placed = [
        Placed(start, start + 100_000, partial(chunks, voice), 0)
        for start, voice in zip((0, 30_000), voices, strict=True)
    ]
    blocks = list(summed(placed, 2))
    expected = np.zeros((2, 130_000), np.float32)
    expected[:, :100_000] += voices[0]
    expected[:, 30_000:] += voices[1]
    assert blocks[0].shape == (2, BLOCK) and np.abs(expected).max() > 1
    assert np.allclose(np.concatenate(blocks, axis=1), expected / np.abs(expected).max(), atol=1e-6)
    quiet = [replace(each, chunks=partial(chunks, 0.5 * voice)) for each, voice in zip(placed, voices, strict=True)]
    assert np.array_equal(np.concatenate(list(summed(quiet, 2)), axis=1), 0.5 * expected)


def test_csv_and_rttm_say_the_same_as_json(folder: Path) -> None:
    rows = [
        "speaker,start,end,audio,offset,face",
        "1,0,0.4,a.wav,,",
        "bert,0.72,,short.wav,,2",
        "bert,0,0:00.2,a.wav,0.1,2",
    ]
    (folder / "talk.csv").write_text("\n".join(rows))
    found = read_speakers(folder / "talk.csv")
    segments = [
        {"speaker": "1", "start": 0, "end": 0.4, "audio": "a.wav"},
        {"speaker": "bert", "start": 0.72, "audio": "short.wav"},
        {"speaker": "bert", "start": 0, "end": 0.2, "audio": "a.wav", "offset": 0.1},
    ]
    people = {"1": {"face": 1}, "bert": {"face": "2"}}
    assert found.people == read_speakers(write(folder, {"people": people, "segments": segments}, "same.json")).people
    (folder / "talk.rttm").write_text("SPEAKER talk 1 0.10 0.30 <NA> <NA> bert <NA> <NA>\n")
    content = {"mix": "a.wav", "people": {"bert": {"face": 2}}, "segments": "talk.rttm"}
    (segment,) = read_speakers(write(folder, content, "r.json")).people[0].segments
    assert (str(segment), segment.offset_sec) == ("0.1-0.4", segment.start_sec)
    with pytest.raises(ValueError, match="does not say which sound"):
        read_speakers(folder / "talk.rttm")


BERT = {"face": 2, "audio": "b.wav"}
BAD = {
    "an unknown name": ({"segments": [{"speaker": "carl", "start": 0, "end": 1}]}, "names 'carl', who is not among"),
    "an unknown word": ({"persons": {}}, "'persons' is unknown"),
    "overlap": (
        {"segments": [{"speaker": "anna", "start": 0, "end": 0.5}, {"speaker": "anna", "start": 0.4, "end": 0.8}]},
        "segments 0-0.5 and 0.4-0.8 of anna overlap",
    ),
    "beyond the end": (
        {"segments": [{"speaker": "anna", "start": 0.8, "end": 2}]},
        "0.8-2 of anna is beyond the end of film.mp4",
    ),
    "beyond the audio": (
        {"segments": [{"speaker": "anna", "start": 0, "audio": "short.wav", "offset": 3}]},
        "begins at 3 s of short.wav, which lasts 0.40 s",
    ),
    "reversed": ({"segments": [{"speaker": "anna", "start": 0.8, "end": 0.2}]}, "ends before it begins"),
    "no time": (
        {"segments": [{"speaker": "anna", "start": "soon", "end": 0.2}]},
        "'soon' of a segment of anna is no time",
    ),
    "missing audio": ({"people": {"anna": {"face": 1, "audio": "no.wav"}}}, "there is no such file"),
    "no audio": ({"people": {"anna": {"face": 1}}}, "anna says nothing"),
    "no face": ({"people": {"anna": {"audio": "a.wav"}}}, 'anna has no "face"'),
    "no face at all": ({"people": {"anna": {"face": None, "audio": "a.wav"}}}, "nobody has a face"),
    "a wrong face": ({"people": {"anna": {"face": "left", "audio": "a.wav"}}}, "anna: face 'left' is unknown"),
    "the same face": ({"people": {"anna": ANNA, "bert": ANNA}}, "anna and bert have the same face"),
    "a wrong silence": ({"people": {"anna": {**ANNA, "silence": "loud"}}}, "silence of anna is 'loud'"),
    "a wrong strength": ({"people": {"anna": {**ANNA, "strength": 9}}}, "anna: strength is 9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_sentence_before_the_work(tmp_path: Path, folder: Path, case: str) -> None:
    content, words = BAD[case]
    path = write(folder, {"people": {"anna": ANNA, "bert": BERT}, **content}, "bad.json")
    with pytest.raises(ValueError) as error:
        check_job(folder / "film.mp4", path, tmp_path / "o.mp4")
    assert words in str(error.value) and str(error.value).endswith(".") and "\n" not in str(error.value)


def test_one_name_twice_and_contradicting_options_are_refused(tmp_path: Path, folder: Path) -> None:
    twice = folder / "twice.json"
    twice.write_text('{"people": {"anna": {}, "anna": {}}}')
    with pytest.raises(ValueError, match="'anna' is there twice"):
        read_speakers(twice)
    for options in (
        JobOptions(face="2"),
        JobOptions(ranges="0-1"),
        JobOptions(audio_track=1),
        JobOptions(start_sec=1.0),
    ):
        with pytest.raises(ValueError, match="a file of speakers says"):
            check_job(folder / "film.mp4", write(folder, TALK), tmp_path / "o.mp4", options)


def test_two_choices_of_one_person_are_refused_before_sampling(
    tmp_path: Path, folder: Path, pipeline: LipsyncPipeline
) -> None:
    people = {"anna": ANNA, "bert": {**BERT, "face": "66,42@0.2"}}
    job = check_job(folder / "film.mp4", write(folder, {"people": people}, "place.json"), tmp_path / "o.mp4")
    with pytest.raises(ValueError, match="anna and bert have the same face in film.mp4"):
        preflight(pipeline, job, FAST)


def test_listeners_keep_their_lips_unless_asked(folder: Path, tmp_path: Path) -> None:
    content = {"people": {"anna": ANNA, "bert": {**BERT, "silence": "close", "strength": 0.5}}}
    anna, bert = check_job(folder / "film.mp4", write(folder, content, "ask.json"), tmp_path / "o.mp4").people
    assert anna.settings(FAST).silence == "keep" and bert.settings(FAST).silence == "close"
    assert bert.settings(FAST).strength == 0.5 and anna.settings(InferenceSettings(silence="close")).silence == "close"


def test_the_sheet_and_the_report_of_a_preflight_name_people(
    tmp_path: Path, folder: Path, pipeline: LipsyncPipeline
) -> None:
    job = check_job(folder / "film.mp4", write(folder, TALK), tmp_path / "o.mp4")
    report = preflight(pipeline, job, FAST, tmp_path / "sheet.jpg")
    assert (tmp_path / "sheet.jpg").is_file() and report.planned
    assert report.summary().startswith("29 of 30 frames would be edited (anna 14, bert 15)")
    strict = replace(job, options=replace(job.options, on_missing_face="error"))
    assert len(pipeline.plans(strict, pipeline.track_faces(strict))) == 2


def test_the_command_line_and_lists_of_jobs_take_speakers(
    tmp_path: Path,
    folder: Path,
    pipeline: LipsyncPipeline,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_tiny_models(monkeypatch, pipeline)
    files = [*QUICK_ARGS, f"--video_path={folder / 'film.mp4'}", f"--speakers={write(folder, TALK)}"]
    assert main([*files, f"--video_out_path={tmp_path / 'o.mp4'}"]) == 0
    stored = json.loads((tmp_path / "o.report.json").read_text())
    assert [each["name"] for each in stored["speakers"]] == ["anna", "bert"] and "anna 14" in capsys.readouterr().out
    assert main([*files, "--audio_path=a.wav"]) == 2 and "leave out --audio_path" in capsys.readouterr().err
    rows = folder / "jobs.csv"
    rows.write_text("video,speakers,output\nfilm.mp4,speakers.json,o.mp4\n")
    assert read_jobs(rows)[0].audio == folder / "speakers.json"
    rows.write_text("video,audio,speakers,output\nfilm.mp4,a.wav,speakers.json,o.mp4\n")
    with pytest.raises(ValueError, match="in place of audio"):
        read_jobs(rows)


def test_the_app_takes_no_file_of_speakers(folder: Path) -> None:
    """It may name any file of the server; an audio file with such a name is refused too."""
    polyglot = folder / "voice.json"
    polyglot.write_bytes((folder / "a.wav").read_bytes())
    with pytest.raises(WebError, match="voice.json has no audio"):
        Inspector(Limits()).sound(polyglot, "voice.json")


def test_the_schema_describes_what_is_read() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SHIPPED / "docs/speakers.schema.json").read_text(encoding="utf-8"))
    person, segment = schema["$defs"]["person"], schema["$defs"]["segment"]
    known = [tuple(each["properties"]) for each in (schema, person, segment)]
    assert known == [FILE, PERSON, SEGMENT]
    jsonschema.validate(TALK, schema)
    for content in (case[0] for name, case in BAD.items() if name in ("an unknown word", "no face", "a wrong silence")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"people": {"anna": ANNA}, **content}, schema)


def test_output_segments_are_cut_where_windows_of_all_people_begin() -> None:
    first, second = np.zeros(200, np.int64), np.full(200, -1)
    second[8:120] = 1
    cuts = [segment.start for segment in plan_output_segments([first, second], 50, fresh=16, overlap=0)]
    assert cuts == [0, 56, 112, 176] or all(cut % 16 == 0 or (cut - 8) % 16 == 0 for cut in cuts)
    alone = [segment.start for segment in plan_output_segments([first], 50, fresh=16, overlap=0)]
    assert alone == [0, 64, 128]
