"""Subtitles with an audio file for each cue, as segments of a file of speakers."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from latentsync.inference.jobs.cues import read_cues
from latentsync.inference.jobs.job import check_job
from latentsync.inference.jobs.speakers_file import read_speakers
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.tiny import SIZE, make_audio, scene

SRT = """1
00:00:00,000 --> 00:00:00,400
ANNA: Good evening,\r
my friend.

2
00:00:00,500 --> 00:00:00,900
Bert: <i>Good</i> evening: hello.
"""
VTT = """\ufeffWEBVTT

NOTE
nobody says this

STYLE
::cue { color: lime }

intro
00:00.000 --> 00:00.400 align:start position:10%
<v.loud Anna>Tom &amp; I</v>

00:00.500 --> 00:00.900
<v Bert>Yes, <00:00.600>indeed.
"""
PEOPLE = {"Anna": {"face": 1}, "Bert": {"face": 2}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A film of 1.2 s, subtitles of two people, and an audio file for each cue."""
    with VideoWriter(tmp_path / "film.mp4", VideoFormat.constant(SIZE[1], SIZE[0], 25)) as writer:
        for index in range(30):
            writer.write(scene(index))
    (tmp_path / "talk").mkdir()
    make_audio(tmp_path / "talk/1.wav", 0.3)
    make_audio(tmp_path / "talk/0002.wav", 0.6)
    make_audio(tmp_path / "talk/3.wav", 0.1)
    (tmp_path / "talk.srt").write_text(SRT)
    (tmp_path / "talk.vtt").write_text(VTT, encoding="utf-8")
    return tmp_path


def speakers(folder: Path, segments: str = "talk.srt", **others: object) -> Path:
    path = folder / "speakers.json"
    path.write_text(json.dumps({"people": PEOPLE, "segments": segments, **others}))
    return path


def test_cues_have_a_number_a_time_a_speaker_and_words(folder: Path) -> None:
    first, second = read_cues(folder / "talk.srt", ["Anna", "Bert"])
    assert (first.number, first.start, first.end) == (1, "00:00:00.000", "00:00:00.400")
    assert (first.speaker, first.text) == ("Anna", "Good evening, my friend.")
    assert (second.speaker, second.text) == ("Bert", "Good evening: hello.")
    assert [cue.speaker for cue in read_cues(folder / "talk.srt")] == ["ANNA", ""]  # no capitals, nobody of that name
    voices = read_cues(folder / "talk.vtt")
    assert [(cue.number, cue.speaker, cue.text) for cue in voices] == [
        (1, "Anna", "Tom & I"),
        (2, "Bert", "Yes, indeed."),
    ]


@pytest.mark.parametrize("table", ["talk.srt", "talk.vtt"])
def test_each_cue_plays_its_file_from_its_start_at_least_until_its_end(folder: Path, table: str) -> None:
    job = check_job(folder / "film.mp4", speakers(folder, table), folder / "out.mp4")
    anna, bert = job.people
    assert (anna.spans, bert.spans) == (((0.0, 0.4),), ((0.5, 1.1),))
    assert anna.waveform[: 16 * 300].any() and not anna.waveform[16 * 300 :].any()
    assert {path.name for path in job.spoken_files} == {"1.wav", "0002.wav", table}
    assert "Audio is longer than its cue and plays on: 0.5 s by 0.2 s." in job.warnings


def test_the_folder_of_the_audio_can_be_named_or_be_that_of_the_subtitles(folder: Path) -> None:
    wanted = [sound.absolute() for sound in read_speakers(speakers(folder)).sounds]
    (folder / "talk").rename(folder / "voices")
    assert [path.name for path in read_speakers(speakers(folder, cues="voices")).sounds] == ["0002.wav", "1.wav"]
    for path in (folder / "voices").iterdir():
        path.rename(folder / path.name)
    assert [path.name for path in read_speakers(speakers(folder)).sounds] == [path.name for path in wanted]


def test_with_a_mix_cues_need_no_files(folder: Path) -> None:
    make_audio(folder / "mix.wav", 1.2)
    (folder / "talk/1.wav").unlink()
    anna, _ = read_speakers(speakers(folder, mix="mix.wav")).people
    segment = anna.segments[0]
    assert (segment.audio.name, segment.stop_sec, segment.cue_stop_sec) == ("mix.wav", Fraction(2, 5), None)


def test_subtitles_of_one_person_need_no_file_beside(folder: Path) -> None:
    (folder / "talk.srt").write_text(SRT.replace("ANNA: ", "").replace("Bert: ", ""))
    (one,) = read_speakers(folder / "talk.srt").people
    assert one.faces == ("largest",) and len(one.segments) == 2
    (folder / "talk.srt").write_text(SRT.replace("ANNA", "<v 2>").replace("Bert", "<v 1>"))
    assert [(person.name, person.faces) for person in read_speakers(folder / "talk.srt").people] == [
        ("1", ("1",)),
        ("2", ("2",)),
    ]


def srt(*cues: tuple[int, str, str, str]) -> str:
    """Subtitles by number, start and end (of the seconds after the hour and minute), and text."""
    blocks = [f"{number}\n00:00:{start} --> 00:00:{end}\n{text}\n" for number, start, end, text in cues]
    return "\n".join(blocks)


BERT = 3, "01,000", "01,100", "Bert: Yes."
WRONG = {
    "no file": (
        srt((1, "00,000", "00,400", "ANNA: A."), (7, "00,500", "00,900", "Bert: B.")),
        r"has no audio for cue 7 \(00:00:00.500\): name the files .* such as 7.wav",
    ),
    "the same number": (
        srt((1, "00,000", "00,400", "ANNA: A."), (1, "00,500", "00,900", "Bert: B.")),
        "two cues have the number 1",
    ),
    "backwards": (srt((1, "00,400", "00,100", "ANNA: A."), BERT), r"cue 1 \(00:00:00.400\) ends before it begins"),
    "nobody": (
        srt((1, "00,000", "00,400", "A."), BERT),
        r"cue 1 \(00:00:00.000\) does not say who speaks, one of Anna, B",
    ),
    "a stranger": (srt((1, "00,000", "00,400", "CARL: C."), BERT), "'CARL', who is not among the people"),
    "overlap": (
        srt((1, "00,000", "00,400", "ANNA: A."), (2, "00,200", "00,900", "ANNA: B."), BERT),
        "of Anna overlap: nobody says two things",
    ),
    "too long": (
        srt((2, "00,000", "00,400", "ANNA: A."), (1, "00,500", "00,900", "ANNA: B."), BERT),
        "0002.wav lasts until 0.60 s, into the next cue of Anna at 0.5 s",
    ),
    "no cues": ("Good evening.", "talk.srt has no cues"),
    "beyond the end": (srt((1, "01,000", "01,900", "ANNA: A."), BERT), "is beyond the end of film.mp4"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_subtitles_are_one_sentence(folder: Path, case: str) -> None:
    text, message = WRONG[case]
    (folder / "talk.srt").write_text(text)
    with pytest.raises(ValueError, match=message):
        check_job(folder / "film.mp4", speakers(folder), folder / "out.mp4")


def test_files_of_cues_are_checked(folder: Path) -> None:
    make_audio(folder / "talk/2.wav", 0.3)
    with pytest.raises(ValueError, match="has 0002.wav and 2.wav for the same cue"):
        read_speakers(speakers(folder))
    with pytest.raises(ValueError, match="voices does not exist: give one with an audio file for each cue"):
        read_speakers(speakers(folder, cues="voices"))
    with pytest.raises(ValueError, match='"cues" is the folder with the audio of subtitles'):
        read_speakers(speakers(folder, "talk.csv", cues="talk"))
    (folder / "talk.srt").write_text(SRT.replace("Bert", "BERT"))
    with pytest.raises(ValueError, match='several speakers: say whose face .*"ANNA": {"face": 1}, "BERT": {"face": 2}'):
        read_speakers(folder / "talk.srt")
