"""What a creator chooses on the page: faces of a picture, several videos, a part to preview; and what the page says of time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentsync.inference.settings import JobOptions
from latentsync.inference.timing import DETECT, GENERATE
from latentsync.media.probe import probe
from latentsync.media.video.read import read_frames
from latentsync.places import DEMO_VIDEO
from tests.support.tiny import make_audio, make_video
from tests.web.support import uploaded, wait_until
from web import texts, views
from web.batch import drafts_of, pairs
from web.errors import WebError
from web.faces import FaceFinder, chosen_of, framed, nearest, place_of
from web.form import form_of, wish_of
from web.jobs import Submission, WebJob
from web.orders import Wish, previewed
from web.sentences import audio_words
from web.serve import Server
from web.settings import PRESETS
from web.spans import content_of, pictures_of, rows_of, spans_of
from web.speed import Speed, Speeds, calls
from web.uploads import Uploads, given_sounds, people_of, shown_sec_of

BOXES = [(10.0, 20.0, 50.0, 70.0), (100.0, 20.0, 150.0, 80.0)]
VIDEOS = [Path("a.mp4"), Path("b.mp4"), Path("c.mp4")]
SOMEBODY = Submission("somebody")


def test_a_click_means_the_nearest_face() -> None:
    assert [nearest(BOXES, *place) for place in ((12, 22), (149, 79), (60, 0), (500, 500))] == [0, 1, 0, 1]
    assert nearest([], 5, 5) is None
    inner = [(0.0, 0.0, 100.0, 100.0), (60.0, 60.0, 90.0, 90.0)]
    assert nearest(inner, 74, 74) == 1  # in both boxes: the face whose middle is nearer
    assert chosen_of(BOXES, place_of(BOXES[1], 2.0), 2.0) == 1
    for elsewhere in (place_of(BOXES[1], 9.0), "largest", "2", "nonsense"):
        assert chosen_of(BOXES, elsewhere, 2.0) is None
    picture = np.full((100, 200, 3), 128, np.uint8)
    assert (framed(picture, BOXES, 1.0, 0) != picture).any() and (picture == 128).all()


def test_faces_of_a_picture_are_numbered_from_left_to_right() -> None:
    frame = next(iter(read_frames(DEMO_VIDEO))).frame
    both = np.concatenate([frame, frame], axis=1)
    finder = FaceFinder()
    boxes = finder.boxes("both", both)
    assert len(boxes) == 2 and boxes[0][2] < frame.shape[1] < boxes[1][0] + 20
    assert finder.boxes("both", np.zeros_like(both)) == boxes  # the same picture is not searched twice
    assert finder.boxes("dark", np.zeros_like(both)) == []


class Click:
    """A click on the picture, as Gradio tells it."""

    def __init__(self, x: int, y: int):
        self.index = (x, y)


def test_a_click_chooses_a_face_or_says_at_once_that_there_is_none(server: Server, tmp_path: Path) -> None:
    uploads = Uploads(server.app.inspector, server.app.store)
    path = uploaded(server, "talk.mp4", DEMO_VIDEO.read_bytes())
    facts, *_, note = uploads.on_video(path, "largest", "")
    assert "256 x 256" in facts and "one face" in note
    face, _, number, note = uploads.on_click(path, 0.0, Click(3, 3))  # type: ignore[arg-type]
    frame = next(iter(read_frames(DEMO_VIDEO))).frame
    assert face == place_of(FaceFinder().boxes("", frame)[0], 0.0)
    assert number["value"] == "1" and "Face 1" in note
    assert uploads.on_number(path, 0.0, "1")[0] == face
    assert "Face 1" in uploads.on_frame(path, 0.0, face)[-1] and "one face" in uploads.on_frame(path, 0.0, "center")[-1]
    empty = uploaded(server, "empty.mp4", make_video(tmp_path / "empty.mp4", 3).read_bytes())
    face, _, number, note = uploads.on_click(empty, 0.0, Click(3, 3))  # type: ignore[arg-type]
    assert texts.NO_FACE_HERE in note and "alert" in note and number["visible"] is False
    assert "value" not in face  # the choice stays


def test_each_video_gets_its_audio() -> None:
    one = [Path("new.wav")]
    assert pairs(VIDEOS, one) == [(video, one[0]) for video in VIDEOS]
    shuffled = [Path("c.wav"), Path("a.wav"), Path("b.wav")]
    assert [audio.name for _, audio in pairs(VIDEOS, shuffled)] == ["a.wav", "b.wav", "c.wav"]
    others = [Path("1.wav"), Path("2.wav"), Path("3.wav")]
    assert pairs(VIDEOS, others) == list(zip(VIDEOS, others, strict=True))
    for wrong in ((VIDEOS, others[:2]), ([], one), (VIDEOS, [])):
        with pytest.raises(WebError):
            pairs(*wrong)


def test_a_list_of_jobs_names_uploaded_files(tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(
        "video,audio,output,preset,start_sec\na.mp4,new.wav,out/first.mp4,fast,1.5\nb.mp4,new.wav,second.mp4,,\n"
    )
    wish = Wish("run", "demo", {"preset": "turbo"}, {"face": "center"})
    drafts = drafts_of(wish, VIDEOS, [Path("new.wav")], listed)
    assert [draft.video for draft in drafts] == VIDEOS[:2] and [draft.names[0] for draft in drafts] == [
        "first.mp4",
        "second.mp4",
    ]
    assert [draft.wish.settings for draft in drafts] == [{"preset": "fast"}, {"preset": "turbo"}]
    assert drafts[0].wish.options == {"face": "center", "start_sec": 1.5}
    with pytest.raises(WebError, match=r"Job 2 of the list needs b\.mp4"):
        drafts_of(wish, VIDEOS[:1], [Path("new.wav")], listed)
    listed.write_text("video,shade\na.mp4,red\n")
    with pytest.raises(WebError, match=r"^list\.csv, job 1: 'shade' is unknown"):
        drafts_of(wish, VIDEOS, [Path("new.wav")], listed)


def test_a_preview_of_a_part_has_its_own_name_and_place(
    server: Server, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    video, audio = (uploaded(server, path.name, path.read_bytes()) for path in pair)
    wish = Wish("preview", "", {"preset": "fast", "steps": 1}, {"start_sec": 0.2})
    job = server.app.submit(SOMEBODY, wish, video, audio)
    run = server.app.submit(SOMEBODY, Wish("run", "", {"preset": "fast", "steps": 1}), video, audio)
    wait_until(lambda: job.is_over and run.is_over)
    assert (job.output.name, run.output.name) == ("talk_preview_0.2s.mp4", "talk_lipsync.mp4")
    assert (job.state, run.state) == ("done", "done")
    assert probe(job.output).frame_count == 5 and probe(run.output).frame_count == 10
    assert 'start="0.2"' in views.player_html(job)
    first = previewed(JobOptions(ranges="12-30@2 40-45"))
    assert first.ranges == "12.0-15.0@2.0" and previewed(JobOptions()) == JobOptions()


def test_a_range_that_cannot_be_read_is_refused_at_once(server: Server, pair: tuple[Path, Path]) -> None:
    video, audio = (uploaded(server, path.name, path.read_bytes()) for path in pair)
    with pytest.raises(ValueError, match="cannot be read"):
        server.app.submit(SOMEBODY, Wish("run", "", {}, {"ranges": "noon"}), video, audio)


REPORT: dict[str, Any] = {
    "stage_sec": {DETECT: 2.0, GENERATE: 50.0},
    "settings": {"preset": "balanced", **PRESETS["balanced"]},
    "timings_sec": {"sample": 40.0},
    "frames": 100,
    "synced_frames": 80,
}


def test_times_of_presets_follow_the_measured_speed(tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speeds.json")
    check = {"frames": 200, "frames_to_edit": 160, "stage_sec": {DETECT: 3.0}}
    assert speeds.estimate("demo", check, PRESETS["fast"]) is None
    for useless in (REPORT | {"synced_frames": 3}, REPORT | {"stage_sec": {}}):
        speeds.learn("demo", useless)
    assert speeds.of("demo") is None
    speeds.learn("demo", REPORT)
    assert speeds.estimate("demo", check, PRESETS["balanced"]) == pytest.approx(3.0 + 2 * 50.0)
    assert speeds.estimate("demo", check, PRESETS["quality"]) == pytest.approx(3.0 + 2 * (10.0 + 2 * 40.0))
    assert (calls(PRESETS["fast"]), calls(PRESETS["turbo"])) == (6, 2)
    again = Speeds(tmp_path / "speeds.json").of("demo")
    assert again == speeds.of("demo") and isinstance(again, Speed) and 0 < again.detect_share(PRESETS["turbo"]) < 1
    (tmp_path / "speeds.json").write_text("{")
    assert Speeds(tmp_path / "speeds.json").of("demo") is None


def test_the_page_says_times_or_that_they_are_unknown() -> None:
    shown = views.times_html({"turbo": 7.2, "balanced": 128.0})
    assert "Turbo about 7 s, Balanced about 2 min" in shown
    assert texts.TIMES_UNKNOWN in views.times_html({"turbo": None})


def test_the_whole_job_has_one_bar_that_only_grows(tmp_path: Path) -> None:
    order: Any = type(
        "", (), {"kind": "run", "options": JobOptions(), "video": tmp_path / "v", "audio": tmp_path / "a"}
    )
    job, shares = WebJob("x", order, tmp_path, ("v.mp4", "a.wav")), []
    for stage, done in [*((DETECT, n) for n in range(5)), *((GENERATE, n) for n in range(5))]:
        job.enter(stage, done, 4)
        shares.append(job.share)
        assert f'data-percent="{shares[-1]:.0%}"' in views.progress_html(job, "")
    known = [share for share in shares if share is not None]
    assert known == sorted(known) and known[0] == 0 and known[-1] == 1 and len(known) == len(shares)
    assert "so far" in views.progress_html(job, "")


def test_the_page_says_audio_and_never_sound() -> None:
    said = [value for name, value in vars(texts).items() if name.isupper() and isinstance(value, str)]
    assert [text for text in said if "sound" in text.lower()] == []
    assert (
        audio_words("The sound of sound.wav is cut after the sound") == "The audio of sound.wav is cut after the audio"
    )


def test_a_batch_goes_on_by_itself_and_lists_its_results(
    server: Server, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    video = server.app.store.uploaded(uploaded(server, "talk.mp4", pair[0].read_bytes()))
    audio = server.app.store.uploaded(uploaded(server, "b.wav", make_audio(tmp_path / "b.wav", 0.4).read_bytes()))
    wish = Wish("preflight", "", {"preset": "fast"})
    drafts = drafts_of(wish, [video, video], [audio])
    jobs, _ = server.app.submit_all(Submission("batcher", list_id="l" * 32), drafts)
    assert server.app.store.going_on(jobs[0]) in jobs
    wait_until(lambda: all(job.is_over for job in jobs))
    assert server.app.store.going_on(jobs[0]) is jobs[0]
    table = views.list_html(jobs)
    assert table.count("talk.mp4") >= 2 and table.count("done") == 2


def test_each_person_gets_their_audio() -> None:
    places = '["10,20@0.00", "30,40@0.00", "50,60@0.00"]'
    assert people_of(places, ["a.wav", None, "c.wav", None]) == {"10,20@0.00": "a.wav", "50,60@0.00": "c.wav"}
    assert people_of("[]", [None] * 4) == {} == people_of("", [None] * 4)
    for wrong in ("{}", "7", "[", "null"):
        with pytest.raises(ValueError):
            people_of(wrong, ["a.wav"])


def test_the_audio_of_people_is_kept_for_their_video_alone() -> None:
    places = '["10,20@2.00", "30,40@2.00"]'
    kept = Uploads(Any, Any).on_sounds("a.mp4", places, None, "b.wav", None, None)  # type: ignore[arg-type]
    assert given_sounds(kept, "a.mp4") == {"30,40@2.00": "b.wav"} and shown_sec_of(given_sounds(kept, "a.mp4")) == 2.0
    for other in (given_sounds(kept, "c.mp4"), *(given_sounds(wrong, None) for wrong in ("", "7", "[]", "{", "{}"))):
        assert other == {} and shown_sec_of(other) == 0.0


def test_people_are_asked_for_by_their_places(server: Server, pair: tuple[Path, Path]) -> None:
    video, sound = (uploaded(server, path.name, path.read_bytes()) for path in pair)
    wish = Wish("run", settings={"preset": "fast", "steps": 1}, options={"face": "center", "start_sec": 0.2})
    job = server.app.submit_people(Submission("page p"), wish, video, sound, {"66,48@0.00": sound})
    wait_until(lambda: job.is_over)
    assert (job.state, job.names) == ("done", ("talk.mp4", "new.wav")), job.error
    assert '"face": "66,48@0.00"' in job.order.audio.read_text(encoding="utf-8")
    assert form_of(job)[:2] == [video, None]
    with pytest.raises(WebError, match="no longer"):
        server.app.submit_people(Submission("page p"), wish, video, None, {"66,48@0.00": "/etc/hostname"})


def test_rows_of_the_table_are_a_file_of_speakers() -> None:
    spans = spans_of('[[2, 1.5, "2.25"], ["1", 0, 1], [null, "", null], [2, 3, 4]]')
    assert spans == [(1, 0, 1), (2, 1.5, 2.25), (2, 3, 4)]
    content = content_of(spans)
    assert content["people"] == {"person 1": {"face": 1}, "person 2": {"face": 2}} and content["mix"] == "mix"
    assert content["segments"][1] == {"speaker": "person 2", "start": 1.5, "end": 2.25}
    assert spans_of("") == spans_of("[]") == spans_of("[[null, null, null]]") == []


WRONG_ROWS = {
    "[[1, 0, 1], [1, null, 2]]": "Row 2 .* incomplete",
    "[[1, 0]]": "Row 1 .* incomplete",
    '[["Anna", 0, 1]]': "Row 1 .* incomplete",
    "[[1, 0, NaN]]": "Row 1 .* incomplete",
    "[[0, 0, 1]]": "Row 1 .* names person 0",
    "[[1.5, 0, 1]]": "Row 1 .* names person 1.5",
    "[[1, 2, 2]]": "Row 1 .* from 2 to 2 s",
    "[[1, -1, 2]]": "Row 1 .* from -1 to 2 s",
    "[": "cannot be read",
    "7": "cannot be read",
    "[7]": "cannot be read",
}


@pytest.mark.parametrize("rows", WRONG_ROWS)
def test_a_wrong_row_is_one_sentence(rows: str) -> None:
    with pytest.raises(WebError, match=WRONG_ROWS[rows]):
        spans_of(rows)


def test_a_job_is_made_with_the_rows_of_the_table(server: Server, pair: tuple[Path, Path]) -> None:
    video, sound = (uploaded(server, path.name, path.read_bytes()) for path in pair)
    given: Any = (
        "fast",
        1,
        1.0,
        7,
        "model",
        1,
        "",
        "off",
        0.2,
        "12,34@0.5",
        "",
        "loop",
        "cut",
        "passthrough",
        "auto",
        "",
    )
    wish, somebody = wish_of("run", *given), Submission("page r")
    job = server.app.submit_spans(somebody, wish, video, sound, spans_of("[[1, 0.1, 0.3]]"))
    wait_until(lambda: job.is_over)
    assert (job.state, job.names) == ("done", ("talk.mp4", "new.wav")), job.error
    form = form_of(job)
    assert form[:3] == [video, sound, "[[1, 0.1, 0.3]]"] and form[-2] == "auto"
    assert list(pictures_of(job, job.order.video)) == [1]
    facts = json.loads(views.speaking_facts(0.48, pictures_of(job, job.order.video)))
    assert facts["length_sec"] == 0.48 and facts["pictures"]["1"].startswith("data:image/jpeg;base64,")
    late = server.app.submit_spans(somebody, wish, video, sound, spans_of("[[1, 0.1, 30]]"))
    wait_until(lambda: late.is_over)
    assert late.state == "failed" and "segment 0.1-30 of person 1 is beyond the end of" in late.error
    twice = server.app.submit_spans(somebody, wish, video, sound, spans_of("[[1, 0.1, 0.3], [1, 0.2, 0.4]]"))
    wait_until(lambda: twice.is_over)
    assert twice.state == "failed" and "of person 1 overlap" in twice.error and rows_of(twice) != "[]"
