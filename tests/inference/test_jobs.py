"""Jobs that are killed, repeated, run at the same time or run out of disk: nothing is lost, and the result has the same bytes."""

import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from latentsync.inference.jobs.job import check_job
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.media.container import MediaError
from latentsync.media.probe import probe
from latentsync.media.video.join import join
from latentsync.media.video.read import read_frames
from scripts.inference import main
from tests.support.tiny import StubDetector, make_audio, make_video
from tests.support.whole_runs import (
    FAST,
    KILLED,
    command,
    contents,
    counted_changes,
    in_child,
    needs_fork,
    run_killed_at,
    short_output_segments,
    start_child,
    tiny_pipeline,
    use_tiny_models,
)
from tests.support.windows import LINUX

KILLS = int(os.environ.get("JOB_KILLS", "5"))  # random ones, beside those at chosen changes
PARTS = 5


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return tiny_pipeline()


@pytest.fixture
def job(tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a job of five output segments; its source is played backwards too, and dark for a while."""
    use_tiny_models(monkeypatch, pipeline)
    short_output_segments(monkeypatch)
    video = make_video(tmp_path / "v.mp4", 25, dark=range(9, 11))
    return command(video, make_audio(tmp_path / "a.wav", 1.6), tmp_path / "o.mp4")


def stopped_half_way(pipeline: LipsyncPipeline, folder: Path) -> Path:
    """The output of the job of `folder`, which was stopped after 20 of 40 frames."""

    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if done >= 20 and stage != "Find the face":
            raise Stop

    output = folder / "o.mp4"
    with pytest.raises(Stop):
        pipeline(folder / "v.mp4", folder / "a.wav", output, FAST, progress=stop)
    return output


def uninterrupted(job: list[str], folder: Path) -> bytes:
    """The bytes of the output of an uninterrupted run."""
    (folder / "calm").mkdir()
    output = folder / "calm" / "o.mp4"
    assert main([*job, f"--video_out_path={output}"]) == 0
    return output.read_bytes()


def per_frame(report: Path) -> object:
    return json.loads(report.read_text(encoding="utf-8"))["per_frame"]


@pytest.mark.slow
@needs_fork
def test_a_job_killed_at_any_change_of_its_files_resumes_to_the_same_bytes(tmp_path: Path, job: list[str]) -> None:
    """Kills right before a file is created, renamed or removed, also while a finished job deletes its folder."""
    expected = uninterrupted(job, tmp_path)
    numbers: list[int] = []
    with counted_changes(numbers.append):
        assert main([*job, f"--video_out_path={tmp_path / 'count' / 'o.mp4'}"]) == 0
    chosen = np.linspace(0, len(numbers) - 1, min(len(numbers), KILLS - 2 if KILLS <= 5 else 5 * KILLS)).astype(int)
    for change in sorted({*chosen.tolist(), len(numbers) - 4}):
        folder = tmp_path / f"k{change}"
        again = [*job, f"--video_out_path={folder / 'o.mp4'}"]
        assert run_killed_at(partial(main, again), change) == KILLED, change
        check_playable(folder)
        assert in_child(partial(main, again)) == 0, change
        assert (folder / "o.mp4").read_bytes() == expected, change
        assert sorted(path.name for path in folder.iterdir()) == ["o.mp4", "o.report.json"], change
        assert per_frame(folder / "o.report.json") == per_frame(tmp_path / "calm" / "o.report.json")


@pytest.mark.slow
@needs_fork
def test_a_job_killed_repeatedly_resumes_to_the_same_bytes(tmp_path: Path, job: list[str]) -> None:
    """Kills by a signal at random CPU times, without cleaning up; windows overlap."""
    job = [*job, "--overlap", "1", "--reference", "elsewhere"]
    expected, rng = uninterrupted(job, tmp_path), np.random.default_rng(0)
    codes = []
    for _ in range(KILLS):
        after_sec = float(rng.uniform(0.02, 0.3))
        codes.append(in_child(partial(run_until, partial(main, job), after_sec)))
        check_playable(tmp_path)
        if codes[-1] == 0:
            assert (tmp_path / "o.mp4").read_bytes() == expected
    assert set(codes) <= {0, -signal.SIGPROF} and -signal.SIGPROF in codes
    assert main(job) == 0
    assert (tmp_path / "o.mp4").read_bytes() == expected
    assert not list(tmp_path.glob("*.job")) and not list(tmp_path.rglob("*.partial"))


def run_until(run: Callable[[], int], cpu_sec: float) -> int:
    """Run; a signal kills the process after `cpu_sec` of CPU time."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu_sec)
    return run()


def check_playable(folder: Path) -> None:
    """All finished segments can be played and joined."""
    parts = sorted(folder.rglob("part_*.mp4"))
    assert [sum(1 for _ in read_frames(part)) for part in parts] == [probe(part).frame_count for part in parts]
    if parts:
        join(parts, folder / "partial.mkv")
        assert probe(folder / "partial.mkv").frame_count == sum(probe(part).frame_count for part in parts)
        (folder / "partial.mkv").unlink()


@needs_fork
def test_a_full_disk_loses_no_finished_segment(
    tmp_path: Path, job: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    job = [*job, "--crf", "1"]  # so that the output is the largest file
    expected = uninterrupted(job, tmp_path)

    def with_full_disk(limit: int) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code, error = main(job), capsys.readouterr().err
        return code if error.count("\n") == 1 and "cannot" in error else 99

    for limit in (100, len(expected) // 2, len(expected) - 1):  # at the start, in the middle, while joining
        assert in_child(partial(with_full_disk, limit)) == 2, limit
        assert not (tmp_path / "o.mp4").exists() and not list(tmp_path.rglob("*.partial"))
        check_playable(tmp_path)
    assert list((tmp_path / "o.mp4.job").glob("part_*.mp4"))
    assert main(job) == 0
    assert (tmp_path / "o.mp4").read_bytes() == expected


@needs_fork
def test_jobs_run_at_the_same_time_in_one_folder(tmp_path: Path, job: list[str]) -> None:
    expected = uninterrupted(job, tmp_path)
    outputs = [tmp_path / name for name in ("one.mp4", "two.mp4", "one.mp4.mp4")]
    children = [start_child(partial(main, [*job, f"--video_out_path={output}"])) for output in outputs]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert all(output.read_bytes() == expected for output in outputs)
    reports = [output.with_suffix(".report.json").name for output in outputs]
    names = ["a.wav", "calm", "v.mp4", *(output.name for output in outputs), *reports]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_two_runs_of_one_output_at_the_same_time(
    tmp_path: Path, job: list[str], pipeline: LipsyncPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run is refused; with its own job folder it may finish first, and both outputs are complete."""
    video, audio, output = tmp_path / "v.mp4", tmp_path / "a.wav", tmp_path / "o.mp4"
    codes: list[int] = []

    def meanwhile(stage: str, done: int, total: int) -> None:
        if stage != "Find the face" and not codes:
            codes.append(main(job))
            codes.append(main([*job, "--force"]))
            codes.append(main([*job, f"--job_dir={tmp_path / 'other'}"]))

    report = pipeline(video, audio, output, FAST, progress=meanwhile)
    assert codes == [2, 2, 0]
    assert capsys.readouterr().err.count("another run uses") == 2
    assert probe(output).frame_count == report.frames == 40
    names = ["a.wav", "o.mp4", "o.report.json", "v.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@LINUX
def test_a_stopped_job_goes_on_and_its_result_is_replaced_as_on_windows(
    tmp_path: Path, job: list[str], pipeline: LipsyncPipeline, windows_files: None
) -> None:
    output = stopped_half_way(pipeline, tmp_path)
    assert main(job) == 0 and probe(output).frame_count == 40
    first = output.read_bytes()
    assert main([*job, "--seed", "4"]) == 0
    assert output.read_bytes() != first and not (tmp_path / "o.mp4.job").exists()


def test_another_job_and_a_file_of_another_program_need_force(
    tmp_path: Path,
    job: list[str],
    pipeline: LipsyncPipeline,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = stopped_half_way(pipeline, tmp_path)
    kept = contents(tmp_path / "o.mp4.job")
    assert {"job.json", "faces.npz", "part_00000.mp4"} <= kept.keys()
    assert main([*job, "--seed", "3"]) == 2
    error = capsys.readouterr().err
    assert "unfinished job with other settings" in error and "--force" in error
    assert contents(tmp_path / "o.mp4.job") == kept
    with monkeypatch.context() as earlier:
        earlier.setattr("latentsync.__version__", "0.0.1")
        assert main(job) == 2
    assert "unfinished job with another version of this program" in capsys.readouterr().err
    assert main([*job, "--seed", "3", "--force"]) == 0
    first = output.read_bytes()
    assert main([*job, "--seed", "4"]) == 0  # a result of this program may be replaced
    assert output.read_bytes() != first
    output.write_bytes(b"not ours")
    assert main(job) == 2
    assert output.read_bytes() == b"not ours"
    assert main([*job, "--force"]) == 0


def test_a_job_that_failed_at_once_does_not_block_the_repaired_one(
    tmp_path: Path, job: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged video is replaced by a good one of the same name."""
    video = tmp_path / "v.mp4"
    good = video.read_bytes()
    begin = good.index(b"mdat")
    video.write_bytes(good[: begin + 2000] + bytes(len(good) - begin - 2000))
    code = main(job)
    if code == 0:
        pytest.skip("this decoder accepts the damage")
    assert "v.mp4" in capsys.readouterr().err
    video.write_bytes(good)
    assert main(job) == 0


FOREIGN = {
    "parts of a film": {"part_1.mp4": b"film", "part_2.mp4": b"film"},
    "another program's job": {"job.json": b'{"steps": 3}', "part_00000.mp4": b"film"},
    "a list": {"job.json": b"[1, 2]"},
    "no text": {"job.json": b"\xff\xfe\x00"},
    "a download": {"film.mp4.partial": b"half a film"},
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_a_folder_of_another_program_is_never_cleared(
    tmp_path: Path, job: list[str], capsys: pytest.CaptureFixture[str], name: str, force: list[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for file, content in FOREIGN[name].items():
        (folder / file).write_bytes(content)
    assert main([*job, f"--job_dir={folder}", *force]) == 2
    assert "other files" in capsys.readouterr().err
    assert {file: content for file, content in contents(folder).items() if file != "job.lock"} == FOREIGN[name]
    assert not (tmp_path / "o.mp4").exists()


def write_list(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return path
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    path.write_text("\n".join(",".join(line) for line in lines), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_list_of_jobs_continues_after_one_that_fails(
    tmp_path: Path,
    job: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:900])
    files = {"video": "v.mp4", "audio": "a.wav"}
    rows: list[dict[str, object]] = [
        {**files, "output": "out/one.mp4", "seed": 5, "limit_sec": 0.4},
        {**files, "output": "out/two.mp4", "video": "broken.mp4"},
        {**files, "output": "out/three.mkv", "codec": "ffv1", "length": "cut", "fps": "30000/1001"},
        {**files, "output": "out/four.mp4", "face": 7},
    ]
    path = write_list(tmp_path / f"jobs{ending}", rows)
    quick = ["--demo", "--inference_steps", "1", f"--jobs={path}"]
    assert main(quick) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("frames synced") >= 2 and "broken" in told and "face 7 does not exist" in told
    one, three = (json.loads((tmp_path / f"out/{name}.report.json").read_text()) for name in ("one", "three"))
    assert (one["frames"], one["settings"]["seed"], one["settings"]["steps"]) == (10, 5, 1)
    assert (probe(tmp_path / "out/three.mkv").codec, three["frames"], three["length"][-7:]) == ("ffv1", 30, "is cut.")
    assert not (tmp_path / "out/two.mp4").exists() and not (tmp_path / "out/four.mp4").exists()
    assert main([*quick[:-1], f"--jobs={write_list(path, rows[:1])}"]) == 0


@pytest.mark.parametrize("more", [("--report=all.json",), ("--job_dir=all.job",), ("--video_path=v.mp4",)])
def test_a_list_of_jobs_cannot_be_combined_with_files_of_one_job(
    tmp_path: Path, job: list[str], capsys: pytest.CaptureFixture[str], more: tuple[str]
) -> None:
    path = write_list(tmp_path / "jobs.csv", [{"video": "v.mp4", "audio": "a.wav", "output": "o.mp4"}])
    assert main(["--demo", f"--jobs={path}", *more]) == 2
    assert more[0].split("=")[0] in capsys.readouterr().err


BAD_LISTS = {
    "empty.csv": b"",
    "head.csv": b"video,audio,output\n",
    "binary.csv": bytes(range(256)),
    "huge.csv": b"video,audio,output\n" + b"x" * 200_000 + b",a.wav,o.mp4\n",
    "more.csv": b"video,audio,output\nv.mp4,a.wav,o.mp4,surplus\n",
    "unknown.csv": b"video,audio,output,mouth\nv.mp4,a.wav,o.mp4,big\n",
    "word.csv": b"video,audio,output,steps\nv.mp4,a.wav,o.mp4,many\n",
    "twice.csv": b"video,audio,output\nv.mp4,a.wav,o.mp4\nv.mp4,a.wav,./o.mp4\n",
    "latin.csv": "video,audio,output\nFüße.mp4,a.wav,o.mp4\n".encode("latin-1"),
    "number.jsonl": b"5\n",
    "half.jsonl": b'{"video": "v.mp4", \n',
    "deep.jsonl": b"[" * 100_000,
    "list.jsonl": b'{"video": "v.mp4", "audio": "a.wav", "output": "o.mp4", "limit_sec": [1]}',
    "map.jsonl": b'{"video": "v.mp4", "audio": "a.wav", "output": "o.mp4", "steps": {"a": 1}}',
    "much.jsonl": b'{"video": "v.mp4", "audio": "a.wav", "output": "o.mp4", "steps": 1e999}',
    "nan.jsonl": b'{"video": "v.mp4", "audio": "a.wav", "output": "o.mp4", "limit_sec": NaN}',
    "zero.jsonl": b'{"video": "v.mp4", "audio": "a.wav", "output": "o.mp4", "fps": "1/0"}',
    "files.jsonl": b'{"video": "v.mp4", "output": "o.mp4"}',
    "list.txt": b"v.mp4 a.wav o.mp4",
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_an_invalid_list_is_refused_as_a_whole(
    tmp_path: Path, job: list[str], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(BAD_LISTS[name])
    before = contents(tmp_path)
    assert main(["--demo", f"--jobs={path}"]) == 2
    error = capsys.readouterr().err
    assert name in error and error.count("\n") == 1, error
    assert contents(tmp_path) == before


def test_a_picture_of_a_person_belongs_to_the_job(tmp_path: Path, job: list[str], pipeline: LipsyncPipeline) -> None:
    """A job does not resume with segments that show another person, chosen by an older picture of the same name."""
    picture = tmp_path / "me.png"
    keys = []
    for content in (b"\x89PNG one", b"\x89PNG two"):
        picture.write_bytes(content)
        options = JobOptions(face=str(picture))
        checked = check_job(tmp_path / "v.mp4", tmp_path / "a.wav", tmp_path / "o.mp4", options)
        keys.append(pipeline._key(checked, FAST))
    assert keys[0] != keys[1]


def test_the_alignment_belongs_to_the_job(tmp_path: Path, job: list[str], pipeline: LipsyncPipeline) -> None:
    """What pass 1 found by other points is not gone on with, even with the same weights."""
    detector = StubDetector()
    detector.alignment = "whole_nose"
    checked = check_job(tmp_path / "v.mp4", tmp_path / "a.wav", tmp_path / "o.mp4")
    other = LipsyncPipeline(replace(pipeline.models, alignment="whole_nose"), detector)
    keys = [each._key(checked, FAST) for each in (pipeline, other)]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"alignment"}


def test_a_long_name_is_taken_or_refused_at_once(
    tmp_path: Path, job: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*job, f"--video_out_path={tmp_path / ('n' * 200 + '.mp4')}"]) == 0
    monkeypatch.setattr("scripts.inference.load_pipeline", lambda args: pytest.fail("the work has begun"))
    for length in (240, 246, 251):
        assert main([*job, f"--video_out_path={tmp_path / ('n' * (length - 4) + '.mp4')}"]) == 2, length
        error = capsys.readouterr().err
        assert "name" in error.lower() and error.count("\n") == 1
    with pytest.raises(MediaError):
        probe(tmp_path / ("n" * 242 + ".mp4"))
