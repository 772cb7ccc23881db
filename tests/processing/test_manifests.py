"""Manifests without a video: compaction of records, new thresholds, the report, training lists."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from latentsync.data.storage import Folder
from latentsync.processing.config import StageSettings
from latentsync.processing.manifests.fileslist import kept_clips, split, with_identity
from latentsync.processing.manifests.manifest import Manifests, frame_of, rows_of
from latentsync.processing.manifests.reapply import reapply
from latentsync.processing.manifests.row import ManifestRow
from latentsync.processing.plan import make_rules
from latentsync.processing.report.funnel import funnel_of, histogram
from latentsync.processing.report.page import write_report
from latentsync.processing.stages.contract import Measure
from latentsync.processing.stages.order import STAGES


def test_compaction_may_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = Manifests(Folder(tmp_path), ("whole", "words"))
    rows = {
        "whole": [ManifestRow("c", "a.mp4", "a.mp4")],
        "words": [ManifestRow("c1", "c", "a.mp4", scores={"n": 1, "x": 0.5, "t": "w"})],
    }
    manifests.record("whole", "a.mp4", rows)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(Folder, "remove", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        manifests.compact()
    manifests.compact()
    assert not manifests.pending_records()
    assert rows_of(manifests.table("words")) == rows["words"]
    again = [ManifestRow("c2", "c", "a.mp4", verdict="dropped", reason="silent")]
    manifests.record("whole", "a.mp4", {"whole": rows["whole"], "words": again})
    manifests.compact()
    assert rows_of(manifests.table("words")) == again


def real_tables(confidences: list[float]) -> dict[str, pd.DataFrame]:
    """Manifests of the shipped stages: one source, one clip of 5 s for each confidence."""
    source = ManifestRow("s", "a.mp4", "a.mp4", end_sec=5.0 * len(confidences))
    tables = {stage.name: [replace(source, parent="s")] for stage in STAGES}
    tables["readable"] = [source]
    for stage in STAGES[3:]:
        tables[stage.name] = []
    for number, confidence in enumerate(confidences):
        clip = ManifestRow(
            f"c{number}", f"c{number}", "a.mp4", "s", 5.0 * number, 5.0 * number + 5, scores={"face_px": 300.0}
        )
        tables["segmented"].append(replace(clip, parent="s"))
        tables["high_resolution"].append(clip)
        tables["affine_transformed"].append(clip)
        synced = replace(clip, scores={**clip.scores, "sync_confidence": confidence, "offset_frames": 0})
        if confidence < 3:
            tables["av_synced"].append(replace(synced, verdict="dropped", reason="low_sync_confidence"))
        else:
            tables["av_synced"].append(synced)
            tables["high_visual_quality"].append(replace(synced, scores={**synced.scores, "quality": 50.0}))
    return {stage: frame_of(rows) for stage, rows in tables.items()}


def test_other_thresholds_need_no_video() -> None:
    tables, before = real_tables([2.0, 4.0, 6.0]), make_rules(StageSettings())
    same = reapply(tables, before, before)
    for stage, table in same.tables.items():
        assert list(table["verdict"]) == list(tables[stage]["verdict"])
    strict = reapply(tables, before, make_rules(StageSettings(min_sync_confidence=5.0)))
    assert list(strict.tables["high_visual_quality"]["clip"]) == ["c2"]
    loose = reapply(tables, before, make_rules(StageSettings(min_sync_confidence=1.0)))
    assert loose.unmeasured["av_synced"] == 1
    assert list(loose.tables["high_visual_quality"]["clip"]) == ["c1", "c2"]


def test_the_report_counts_clips_and_is_one_file(tmp_path: Path) -> None:
    tables = real_tables([2.0, 4.0, 6.0])
    measure = Measure("sync_confidence", "av_synced", "Sync confidence", "", at_least=3.0)
    funnel = write_report(Folder(tmp_path / "manifests"), Folder(tmp_path), tables, [measure], {"input": "<b>raw</b>"})
    synced = next(stage for stage in funnel.stages if stage.stage == "av_synced")
    assert (synced.given.clips, synced.kept.clips, synced.dropped["low_sync_confidence"].clips) == (3, 2, 1)
    assert synced.given.hours == pytest.approx(15 / 3600, abs=1e-6)
    page = (tmp_path / "manifests/report.html").read_text(encoding="utf-8")
    assert "http" not in page and "<script" not in page and "&lt;b&gt;raw" in page
    assert json.loads((tmp_path / "manifests/report.json").read_text())["stages"][-1]["kept"]["clips"] == 2
    distribution = histogram(tables["av_synced"], measure)
    assert distribution is not None and sum(distribution.kept) == 2 and sum(distribution.dropped) == 1
    assert distribution.hours_from[0] == pytest.approx(15 / 3600, abs=1e-6)
    assert funnel_of(tables, []).stages[-1].kept.clips == 2


def test_no_identity_is_in_two_lists() -> None:
    rows = [
        ManifestRow(
            f"c{n}",
            f"c{n}",
            f"person {n % 7}/film {n % 21}.mp4",
            end_sec=5.0,
            file=f"f/{n}.mp4",
            scores={"quality": float(n)},
        )
        for n in range(200)
    ]
    clips = kept_clips(frame_of(rows), ["quality>=20", "duration_sec<=5"])
    assert len(clips) == 180
    for rule, count in (("source", 21), ("folder", 7), ("top_folder", 7)):
        lists = split(with_identity(clips, rule), {"train": 0.8, "val": 0.1, "test": 0.1})
        assert sum(each.identities for each in lists) == count
        assert sorted(file for each in lists for file in each.files) == sorted(clips["file"])
        known = dict(zip(clips["file"], with_identity(clips, rule)["identity"], strict=True))
        people = [{known[file] for file in each.files} for each in lists]
        assert all(people) and not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
    table = pd.DataFrame({"source": sorted(set(clips["source"])), "who": ["x", "y"] * 10 + ["z"]})
    assert {each.identities for each in split(with_identity(clips, "column:who", table), {"train": 2, "val": 1})} == {
        1,
        2,
    }
    with pytest.raises(ValueError, match="sharpness"):
        kept_clips(frame_of(rows), ["sharpness>3"])
    with pytest.raises(ValueError, match="cannot fill"):
        split(with_identity(clips, "folder"), {f"l{n}": 1.0 for n in range(8)})
