"""The evaluation commands as a user calls them: scores, counted failures, messages and exit statuses."""

import json
import shutil
import subprocess
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval import (
    bench_clips,
    degradations,
    eval_fvd,
    eval_leakage,
    eval_lips,
    eval_quality,
    eval_sync_conf,
    eval_syncnet_acc,
    networks,
)
from eval.avatar_set import PINNED, check_pinned, hashes
from eval.clip_sets import write_sound, write_video
from eval.videos import find_videos, pair_up
from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, AvatarClip, random_clip, write_truth
from latentsync.weights import read_checkpoint

pytest.importorskip("espeakng_loader", reason="avatars speak with espeak-ng")
ROOT = Path(__file__).resolve().parents[2]
FRAMES = 36  # the fewest that a Frechet video distance takes


def write_clip(clip: AvatarClip, video: Path, frames: int = FRAMES) -> Path:
    video.parent.mkdir(parents=True, exist_ok=True)
    sound = video.with_suffix(".wav")
    write_sound(sound, clip.waveform, frames)
    write_video(video, islice(clip.frames(), frames), sound)
    sound.unlink()
    return video


def cut(clip: AvatarClip, frames: int = 48) -> AvatarClip:
    tracks = {name: values[:frames] for name, values in vars(clip.mouth).items()}
    return replace(clip, mouth=replace(clip.mouth, **tracks))


@pytest.fixture(scope="module")
def clips() -> list[AvatarClip]:
    return [random_clip(HELD_OUT_FIRST_SEED + index) for index in range(2)]


@pytest.fixture(scope="module")
def folder(clips: list[AvatarClip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two avatars, and one file for each reason why a video cannot be scored."""
    path = tmp_path_factory.mktemp("evaluation")
    for name, clip in zip("ab", clips, strict=True):
        write_clip(clip, path / "good" / f"{name}.mp4")
        write_truth(clip, path / f"{name}.json")
    (path / "bad").mkdir()
    sound = path / "sound.wav"
    write_sound(sound, clips[0].waveform, FRAMES)
    write_video(path / "bad" / "no_face.mp4", (np.full((96, 96, 3), 90, np.uint8) for _ in range(FRAMES)), sound)
    write_video(path / "bad" / "no_audio.mp4", islice(clips[0].frames(), FRAMES))
    (path / "bad" / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(200))
    write_clip(clips[0], path / "bad" / "short.mp4", 12)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--cache", str(tmp_path_factory.mktemp("cache")), "--device", "cpu"]


def run(main: Any, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """(exit status, rows, stderr) of a command; the last row is the summary."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err


def test_sync_confidence_of_a_talking_clip_and_counted_failures(
    folder: Path, cache: list[str], capsys: pytest.CaptureFixture[str]
):
    videos = [folder / "good" / "a.mp4", folder / "bad"]
    status, rows, said = run(eval_sync_conf.main, capsys, "--videos", *videos, "--sync_model", "demo", *cache)
    summary = rows[-1]["summary"]
    assert status == 0 and summary["videos"] == 5 and summary["scored"] == 1
    assert summary["failures"] == {"no face": 1, "no audio": 1, "unreadable": 1, "too short": 1}
    assert all(row["detail"] for row in rows[:-1] if not row["scored"])
    assert abs(rows[0]["offset_frames"]) <= 1 and rows[0]["confidence"] > 0.4
    assert (
        rows[0]["distance_as_heard"] >= rows[0]["distance"] and rows[0]["confidence_as_heard"] <= rows[0]["confidence"]
    )
    assert len(summary["fingerprint"]) == 12 and "drawn heads" in summary["stand_ins"][0]
    assert summary["scores"]["confidence"]["mean"] == rows[0]["confidence"]
    assert "1 of 5 videos scored" in said and "no face" in said


def test_order_of_the_videos_changes_no_score(folder: Path, cache: list[str], capsys: pytest.CaptureFixture[str]):
    videos = [folder / "good" / name for name in ("a.mp4", "b.mp4")]
    found = [run(eval_syncnet_acc.main, capsys, "--videos", *order, *cache) for order in (videos, videos[::-1])]
    assert [status for status, *_ in found] == [0, 0]
    first, second = (sorted(rows[:-1], key=lambda row: row["video"]) for _, rows, _ in found)
    assert first == second and found[0][1][-1] == found[1][1][-1]
    assert found[0][1][-1]["summary"]["accuracy_of_all_pairs"] > 0.7
    uncached = run(eval_syncnet_acc.main, capsys, "--videos", *videos, "--no_cache", "--device", "cpu")
    assert uncached[1] == found[0][1]


def test_a_public_syncnet_is_loaded_with_its_training_configuration(
    folder: Path, cache: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    public = tmp_path / "public.pt"  # tensors without metadata
    torch.save({"state_dict": dict(read_checkpoint(networks.DEMO_SYNCNET).tensors)}, public)
    arguments = ["--videos", folder / "good", *cache, "--threshold", 0.75, "--sync_model"]
    status, _, said = run(eval_syncnet_acc.main, capsys, *arguments, public)
    assert status == 2 and "config" in said
    config = ["--config_path", Path(__file__).parents[2] / "configs/syncnet/demo.yaml"]
    own, configured = (
        run(eval_syncnet_acc.main, capsys, *arguments, *which) for which in (["demo"], [public, *config])
    )
    assert configured[0] == 0
    assert configured[1][-1]["summary"]["accuracy_of_all_pairs"] == own[1][-1]["summary"]["accuracy_of_all_pairs"]


def test_missing_weights_are_reported_before_any_work(
    folder: Path, cache: list[str], capsys, monkeypatch, tmp_path: Path
):
    for name in ("EXPERT", "S3FD_FILE"):
        monkeypatch.setattr(networks, name, tmp_path / "absent.pth")
    good = ["--videos", folder / "good", *cache]
    for main, arguments in (
        (eval_sync_conf.main, good),
        (eval_fvd.main, [*good, "--truth", folder / "good", "--network", tmp_path / "absent.pt"]),
        (eval_quality.main, [*good, "--metrics", "hyper_iqa", "--hyper_iqa", tmp_path / "absent.pkl"]),
        (eval_syncnet_acc.main, [*good, "--sync_model", tmp_path / "absent.pt"]),
        (eval_leakage.main, [*good, "--model", tmp_path / "absent.pt"]),
        (eval_lips.main, [*good, "--detector", "face_alignment"]),
    ):
        status, rows, said = run(main, capsys, *arguments)
        assert status == 2 and rows == [] and len(said.splitlines()) == 1, said
        assert "absent" in said or "does not exist" in said or "needs" in said


def test_wrong_arguments_are_refused_with_one_sentence(
    folder: Path, tmp_path: Path, cache: list[str], capsys: pytest.CaptureFixture[str]
):
    empty = tmp_path / "empty"
    empty.mkdir()
    for given, sentence in ((empty, "contains no video"), (tmp_path / "nowhere", "does not exist")):
        status, rows, said = run(eval_lips.main, capsys, "--videos", given, *cache)
        assert status == 2 and not rows and sentence in said
    status, rows, _ = run(eval_lips.main, capsys, "--videos", folder / "bad" / "no_face.mp4", *cache)
    assert status == 2 and rows[-1]["summary"]["failures"] == {"no face": 1}
    taken = tmp_path / "taken.jsonl"
    taken.write_text("mine")
    status, _, said = run(eval_lips.main, capsys, "--videos", folder / "good", "--out", taken, *cache)
    assert status == 2 and "not overwritten" in said and taken.read_text() == "mine"
    status, _, said = run(eval_quality.main, capsys, "--videos", folder / "good", "--metrics", "psnr_ssim", *cache)
    assert status == 2 and "--truth" in said


def test_lips_equal_their_truth_and_lengths_must_agree(folder: Path, cache: list[str], capsys, clips: list[AvatarClip]):
    video, truth = folder / "good" / "a.mp4", folder / "a.json"
    stored = json.loads(truth.read_text())
    cut = folder / "cut.json"
    cut.write_text(json.dumps({"aperture_px": stored["aperture_px"][:FRAMES]}))
    status, rows, _ = run(eval_lips.main, capsys, "--videos", video, "--truth", cut, "--source", video, *cache)
    assert status == 0 and rows[0]["aperture_correlation"] > 0.9 and rows[0]["source_correlation"] == pytest.approx(1)
    assert "landmark_distance" in rows[-1]["summary"]["skipped"]
    status, rows, _ = run(eval_lips.main, capsys, "--videos", video, "--truth", truth, *cache)
    assert status == 2 and rows[-1]["summary"]["failures"] == {"different lengths": 1}
    status, rows, _ = run(
        eval_lips.main, capsys, "--videos", folder / "good", "--truth", folder / "good" / "a.mp4", *cache
    )
    assert status == 0 and rows[-1]["summary"]["failures"] == {"no truth": 1}


def test_quality_of_a_copy_of_a_changed_and_of_a_shorter_video(
    folder: Path, cache: list[str], capsys, clips, tmp_path: Path
):
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(folder / "good" / "a.mp4", results)
    write_clip(replace(clips[1], mouth=clips[0].mouth), results / "b.mp4")
    out = tmp_path / "rows.jsonl"
    arguments = ["--videos", results, "--truth", folder / "good", "--out", out, *cache]
    status, _, said = run(eval_quality.main, capsys, *arguments)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert status == 0 and rows[0]["psnr_full"] == 100 and rows[0]["ssim_ring"] == pytest.approx(1)
    assert rows[1]["psnr_inside"] < rows[1]["psnr_outside"] and rows[1]["psnr_inside"] < 40
    assert "lpips was left out" in said or "lpips_full" in rows[0]
    short = write_clip(clips[0], tmp_path / "a.mp4", FRAMES - 10)
    status, rows, _ = run(eval_quality.main, capsys, "--videos", short, "--truth", folder / "good" / "a.mp4", *cache)
    assert status == 2 and rows[0]["reason"] == "different lengths"


class Features(torch.nn.Module):
    """Stand-in for I3D with known features."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        assert x.shape[1:] == (3, 16, 224, 224) and not rescale and not resize and return_features
        return x.mean(dim=[2, 3, 4])


def test_fvd_of_equal_and_different_sets(folder: Path, cache: list[str], capsys, clips, tmp_path: Path):
    program = tmp_path / "i3d.pt"
    torch.jit.save(torch.jit.script(Features()), str(program))
    good, other = folder / "good", tmp_path / "other"
    for index in (2, 3):
        write_clip(random_clip(HELD_OUT_FIRST_SEED + index), other / f"{index}.mp4")
    arguments = ["--network", program, *cache]
    status, rows, _ = run(
        eval_fvd.main, capsys, "--videos", good, folder / "bad/short.mp4", "--truth", good, *arguments
    )
    summary = rows[-1]["summary"]
    assert status == 0 and summary["fvd"] == pytest.approx(0, abs=1e-9) and summary["failures"] == {"too short": 1}
    assert "fewer than 100 videos" in summary["note"] and summary["sets"] == [2, 2]
    first = run(eval_fvd.main, capsys, "--videos", good, "--truth", other, *arguments)[1][-1]["summary"]
    order = [good / "b.mp4", good / "a.mp4"]
    second = run(eval_fvd.main, capsys, "--videos", *order, "--truth", other, *arguments)[1][-1]["summary"]
    assert first["fvd"] == second["fvd"] > 0 and (first["low"], first["high"]) == (second["low"], second["high"])


def test_leakage_of_a_copy_is_one_and_of_a_closed_mouth_zero(
    folder: Path, cache: list[str], capsys, clips, tmp_path: Path
):
    copies, closed = tmp_path / "copies", tmp_path / "closed"
    copies.mkdir()
    shutil.copy(folder / "good" / "a.mp4", copies)
    mute = replace(clips[0], mouth=replace(clips[0].mouth, aperture=np.zeros(len(clips[0]))))
    write_clip(mute, closed / "a.mp4")
    video = folder / "good" / "a.mp4"
    for silent, kept in ((copies, 1.0), (closed, 0.0)):
        arguments = ["--videos", video, "--silent_results", silent, "--other_results", copies, *cache]
        status, rows, _ = run(eval_leakage.main, capsys, *arguments)
        assert status == 0 and rows[0]["silent_movement_kept"] == pytest.approx(kept, abs=0.12)
        assert rows[0]["old_lips_correlation"] == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_five_known_degradations_are_ranked_correctly(clips: list[AvatarClip]):
    judge = networks.stable_judge(networks.DEMO_SYNCNET, torch.device("cpu"), None)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in degradations.KINDS}
    clips = [cut(clip) for clip in clips]
    for clip, other in (clips, clips[::-1]):
        for kind, row in degradations.damage_scores(judge, clip, other).items():
            found[kind].append(row)
    rows = degradations.table_of(found)
    assert degradations.wrong_ranks(rows) == []
    rows[0]["sync_distance"]["mean"] = 5.0
    assert degradations.wrong_ranks(rows) != []


def test_lists_and_names_pair_videos(folder: Path, tmp_path: Path):
    good = folder / "good"
    (tmp_path / "list.txt").write_text(f"# results\n{good / 'b.mp4'}\n{good / 'a.mp4'}\n")
    (tmp_path / "other.txt").write_text(f"{good / 'a.mp4'}\n{good / 'b.mp4'}\n")
    videos = find_videos([tmp_path / "list.txt"])
    assert [pair.truth.stem for pair in pair_up(videos, [tmp_path / "other.txt"]) if pair.truth] == ["a", "b"]
    assert [pair.truth.stem for pair in pair_up(videos, [good]) if pair.truth] == ["b", "a"]
    with pytest.raises(ValueError, match="one partner a line"):
        pair_up(videos[:1], [tmp_path / "other.txt"])
    with pytest.raises(ValueError, match="the same name"):
        pair_up(videos, [good, folder / "bad", write_clip(random_clip(5), tmp_path / "a.mp4", 2)])


def test_avatars_equal_the_pinned_list(clips: list[AvatarClip]):
    found = hashes(clips[0])
    check_pinned([found])
    assert len(json.loads(PINNED.read_text())["clips"]) == 24
    assert len(check_pinned([found | {"pictures": "0"}])) == 1
    with pytest.raises(ValueError, match="cannot be compared"):
        check_pinned([found | {"truth": "0"}])


def test_the_list_of_a_real_folder_ignores_other_files(folder: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(bench_clips, "MIN_SEC", 1.0)
    root = tmp_path / "voxceleb2"
    for index, name in enumerate(("id00001/x/00001.mp4", "id00001/x/00002.mp4", "id00002/y/00001.mp4")):
        path = root / "mp4" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / "good" / f"{'ab'[index % 2]}.mp4").read_bytes() + bytes(index))
    (root / "mp4/id00003/z").mkdir(parents=True)
    (root / "mp4/id00003/z/00001.mp4").write_bytes((folder / "bad/no_audio.mp4").read_bytes())
    arguments = ["voxceleb2", "--root", root, "--max_sec", "0.4", "--out"]
    assert run(bench_clips.main, capsys, *arguments, tmp_path / "set", "--clips", "2")[0] == 0
    stored = json.loads((tmp_path / "set/list.json").read_text())
    assert {row["speaker"] for row in stored["clips"]} == {"id00001", "id00002"}
    assert set(stored["left_out"].values()) <= {"no sound"}
    (root / "mp4/notes.mp4").write_bytes(b"")
    again = [*arguments, tmp_path / "again", "--list", tmp_path / "set/list.json"]
    assert run(bench_clips.main, capsys, *again)[0] == 0
    assert (tmp_path / "again/clips.json").read_text().replace("again", "set") == (
        tmp_path / "set/clips.json"
    ).read_text()
    (root / stored["clips"][0]["path"]).write_bytes(b"other")
    status, _, said = run(
        bench_clips.main, capsys, *arguments, tmp_path / "third", "--list", tmp_path / "set/list.json"
    )
    assert status == 2 and "hash differs" in said


@pytest.mark.parametrize("script", sorted((ROOT / "eval").glob("*.sh")), ids=lambda path: path.name)
def test_shell_commands_only_start_their_module(script: Path):
    text = script.read_text()
    assert text.rstrip().endswith('"$@"') and text.count('"$@"') == 1 and script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert (ROOT / "eval" / f"{script.stem}.py").is_file() and f"-m eval.{script.stem} " in text
