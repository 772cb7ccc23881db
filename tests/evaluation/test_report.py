"""The report: rows for truth and copy, failures counted by reason, resumed work, a page that needs no other files."""

import json
import re
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from eval import report
from eval.avatar_set import make_avatar_clips
from eval.clip_sets import SET_FILE, load_set, parse_tasks, save_set, write_video
from eval.report_tables import checks, warnings
from eval.systems import Command
from latentsync.media.process import run_program

pytest.importorskip("espeakng_loader", reason="avatars speak with espeak-ng")
FRAMES = 24
COPYING = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
FAILING = "import sys; sys.exit('no licence')"


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    save_set(folder, {"set": "avatars"}, make_avatar_clips(folder, 1, FRAMES, ["cross", "silent"]))
    return folder


def command(name: str, program: str) -> str:
    """A system that runs a program."""
    return f"{name}={sys.executable} -c '{program}' {{video}} {{out}} {{audio}}"


def make(clip_set: Path, out: Path, *arguments: object) -> int:
    shared = ["--sync_model", "demo", "--device", "cpu", "--cache", clip_set / "cache", "--shown", "1"]
    return report.main([str(a) for a in ("--set", clip_set, "--out", out, *shared, *arguments)])


@pytest.fixture(scope="module")
def made(clip_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with truth, a folder of results (one missing, one without a face), a program that fails, and the copy."""
    finished = tmp_path_factory.mktemp("finished")
    clip = next(c for c in load_set(clip_set)[1] if c.task == "silent")
    write_video(finished / f"{clip.name}_silent.mp4", (np.full((96, 96, 3), 90, np.uint8) for _ in range(FRAMES)))
    out = tmp_path_factory.mktemp("report") / "out"
    systems = ["--results", f"faceless={finished}", "--command", command("unlicensed", FAILING)]
    assert make(clip_set, out, "--title", "A <test> & more", *systems) == 0
    return out


def test_every_system_has_a_row_and_every_failure_a_reason(made: Path):
    stored = json.loads((made / "report.json").read_text())
    names = ["ground truth", "unlicensed", "faceless", "copy of input"]
    assert [system["name"] for system in stored["systems"]] == names
    assert len(stored["rows"]) == 4 * 2
    assert stored["totals"]["unlicensed"]["failures"] == {"program failed": 2}
    assert stored["totals"]["faceless"]["failures"] == {"no output": 1, "no face": 1}
    cross = stored["tasks"]["cross"]
    truth, copy = (cross[name]["scores"] for name in ("ground truth", "copy of input"))
    assert truth["sync_distance_as_heard"]["mean"] < copy["sync_distance_as_heard"]["mean"]
    assert truth["aperture_correlation"]["mean"] > 0.8 > copy["aperture_correlation"]["mean"]
    assert copy["source_correlation"]["mean"] == pytest.approx(1, abs=0.02) and "psnr_inside" not in truth
    assert copy["border_step_skin"]["mean"] < 1 and copy["bar_visibility"]["mean"] < 1  # its head is not repainted
    assert copy["sharpness_ratio"]["mean"] == pytest.approx(1, abs=0.25)
    assert copy["jaw_error"]["mean"] < 2  # its jaw moves to the old words
    assert truth["border_step_skin"]["mean"] < 1 and "jaw_error" not in truth  # compared with the input
    silent = stored["tasks"]["silent"]
    assert silent["copy of input"]["scores"]["silent_movement_kept"]["mean"] == pytest.approx(1, abs=0.1)
    assert silent["ground truth"]["scores"]["silent_movement_kept"]["mean"] < 0.2
    assert stored["judge"]["fingerprint"] and "drawn heads" in stored["judge"]["stand_ins"][0]


def test_the_page_needs_no_other_files_and_contains_no_path_of_the_machine(made: Path):
    text = (made / "report.html").read_text()
    assert "A &lt;test&gt; &amp; more" in text and "<test>" not in text
    assert "program failed" in text and "no output" in text
    assert "Bars beside nose: step at the upright edges" in text
    sources = re.findall(r'(?:src|href)="([^"]+)"', text)
    videos = [source for source in sources if not source.startswith("data:")]
    assert videos and all((made / video).is_file() and not video.startswith("/") for video in videos)
    assert "http" not in text and "prefers-color-scheme: dark" in text
    rows = json.loads((made / "report.json").read_text())["rows"]
    assert not [row for row in rows if "detail" in row]


def test_finished_results_are_reused_and_a_foreign_folder_is_refused(clip_set: Path, tmp_path: Path, capsys):
    count = tmp_path / "count"
    counting = f'import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2]); open("{count}", "a").write("x")'
    arguments = ["--tasks", "silent", "--command", command("counting", counting)]
    assert make(clip_set, tmp_path / "out", *arguments) in (0, 2)
    assert make(clip_set, tmp_path / "out", *arguments) in (0, 2)
    assert count.read_text() == "x"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("mine")
    assert make(clip_set, tmp_path / "mine") == 2
    assert "did not write" in capsys.readouterr().err and (tmp_path / "mine" / "report.html").read_text() == "mine"


def test_wrong_arguments_are_refused_with_one_sentence(clip_set: Path, tmp_path: Path, capsys):
    for arguments, sentence in (
        (["--tasks", "singing"], "is no task"),
        (["--command", "tool=program {video} {audio}"], "lacks {out}"),
        (["--command", "program {video} {audio} {out}"], "write NAME=VALUE"),
        (["--results", f"x={tmp_path / 'nowhere'}"], "does not exist"),
        (["--ours", tmp_path / "nothing.pt"], "does not exist"),
        (["--results", f"a={tmp_path}", f"a={tmp_path}"], "the same name"),
    ):
        assert make(clip_set, tmp_path / "out", *arguments) == 2
        assert sentence in capsys.readouterr().err
    assert report.main(["--set", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"no readable {SET_FILE}" in capsys.readouterr().err


def test_programs_are_run_without_a_shell_and_measured():
    awkward = "a b; $HOME 'c'"
    done = run_program([sys.executable, "-c", "import sys; print(sys.argv[1])", awkward])
    assert done.status == 0 and done.output == awkward and done.seconds > 0
    assert done.peak_mb is None or done.peak_mb > 1
    assert run_program([sys.executable, "-c", "raise SystemExit(3)"]).status == 3
    with pytest.raises(ValueError, match="cannot run"):
        run_program(["no-such-program-here"])
    with pytest.raises(ValueError, match="lacks"):
        Command("x", "tool {video}")


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean, "high": mean}


def test_a_wrong_order_fails_a_check_and_a_score_above_truth_is_a_warning():
    distances = {"ground truth": 0.4, "ours": 0.6, "copy of input": 1.1}
    rows = {
        name: {"scores": {"sync_distance_as_heard": interval(d), "sync_distance": interval(d)}}
        for name, d in distances.items()
    }
    assert [check["holds"] for check in checks(rows, ["ours"])] == [True, True]
    assert warnings({"cross": rows}, list(rows)) == []
    rows["ours"]["scores"] = {"sync_distance_as_heard": interval(0.3), "sync_distance": interval(0.3)}
    assert [check["holds"] for check in checks(rows, ["ours"])] == [False, True]
    assert len(warnings({"cross": rows}, list(rows))) == 1


def test_sets_survive_saving_and_tasks_are_parsed(clip_set: Path, tmp_path: Path):
    facts, clips = load_set(clip_set)
    assert facts["set"] == "avatars" and {clip.task for clip in clips} == {"cross", "silent"}
    assert all(clip.frame_count == FRAMES == len(clip.openings) for clip in clips)
    save_set(tmp_path, facts, [replace(clip, name="copied") for clip in islice(clips, 1)])
    assert load_set(tmp_path)[1][0].fingerprint == clips[0].fingerprint
    assert parse_tasks(["cross:3", "silent"]) == {"cross": 3, "silent": None}
