"""The runner of the data processing: resume, crashes, remote folders, GPU pools; with steps that need no video."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from latentsync.data.clips import find_clips, index_clips
from latentsync.data.shards.catalog import read_catalog
from latentsync.data.storage import Folder
from latentsync.processing.config import RunSettings, StageSettings
from latentsync.processing.manifests.manifest import TIMES, Manifests, rows_of
from latentsync.processing.manifests.settings_record import check_output
from latentsync.processing.plan import Plan, groups_of, stage_names
from latentsync.processing.run import runner
from latentsync.processing.run.chain import Chain
from latentsync.processing.run.progress import LocalTracker
from latentsync.processing.run.ray_session import ray_session
from latentsync.processing.run.resume import backlog
from latentsync.processing.run.run_lock import StaleRun, run_lock
from latentsync.processing.run.runner import Workers
from latentsync.processing.run_folder import RunFolder, make_run_folder
from scripts import process_data, write_fileslist
from tests.support.object_store import object_store
from tests.support.stub_steps import stub_plan

pytest.importorskip("ray", reason="the runner needs ray[data]")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    "hello you -bad no some world"  # of each source: one is dropped by the first step, one is too short for the last
)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of an object store in this process, which Ray's workers can reach."""
    with object_store():
        yield "s3://corpus"


@pytest.fixture(scope="module")
def ray_running(store: str) -> Iterator[None]:
    """One Ray for all tests here, with two cores and two GPUs that are only counted."""
    with ray_session(cores=2, gpus=2):
        yield


def make_input(root: Path, count: int = 4, words: str = WORDS) -> Path:
    folder = root / "raw videos"
    (folder / "größe 大").mkdir(parents=True)
    for number in range(count):
        place = folder / ("größe 大" if number % 2 else ".") / f"film {number} [x].mp4"
        place.write_text(words)
    (folder / "empty.MOV").write_text("")
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process clips in this process instead of in Ray's workers."""

    @contextmanager
    def workers(plan: Plan, run_folder: RunFolder, settings: RunSettings) -> Iterator[Workers]:
        watch = LocalTracker()
        chain = Chain(plan, plan, run_folder, watch)
        yield Workers(lambda items: [None for item in items for _ in chain(item)] and None, watch.snapshot)

    monkeypatch.setattr(runner, "ray_workers", workers)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def manifests_of(run_folder: RunFolder) -> dict[str, pd.DataFrame]:
    tables = Manifests(run_folder.manifests, stage_names(stub_plan())).tables()
    return {stage: table.drop(columns=list(TIMES)) for stage, table in tables.items()}


def assert_same_result(run_folder: RunFolder, other: RunFolder) -> None:
    assert contents(Path(run_folder.output.root, "long")) == contents(Path(other.output.root, "long"))
    ours, theirs = manifests_of(run_folder), manifests_of(other)
    for stage, table in ours.items():
        pd.testing.assert_frame_equal(table, theirs[stage])


def test_a_run_keeps_drops_and_fails_for_stated_reasons(ray_running: None, tmp_path: Path) -> None:
    folder = make_input(tmp_path)
    (folder / "bad.mp4").write_text("fine raise good die")
    before = contents(folder)
    run_folder = replace(make_run_folder(f"{folder}/"), max_lost_workers=2)  # a trailing slash changes nothing
    runner.run(stub_plan(), run_folder, RunSettings(gpus=2))
    assert contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"raw videos", "long", "manifests"}
    tables = manifests_of(run_folder)
    assert list(tables["whole"][tables["whole"]["verdict"] == "dropped"]["source"]) == ["empty.MOV"]
    failed = tables["upper"][tables["upper"]["verdict"] == "failed"]
    assert list(failed["reason"]) == ["RuntimeError", "WorkerDied"]
    assert "bad.mp4" in failed["detail"].iloc[0]
    final = tables["long"]
    assert (final["verdict"] == "kept").sum() == 4 * 4 + 2
    assert set(final[final["verdict"] == "dropped"]["reason"]) == {"low_quality"}
    for file in final[final["verdict"] == "kept"]["file"]:
        assert (tmp_path / file).is_file()


def test_failed_clips_and_changed_sources_are_done_again(in_process: None, tmp_path: Path) -> None:
    folder = make_input(tmp_path, 1)
    (folder / "bad.mp4").write_text("fine raise good")
    run_folder = make_run_folder(folder)
    runner.run(stub_plan(), run_folder, RunSettings())
    assert list(manifests_of(run_folder)["upper"]["verdict"]).count("failed") == 1
    done = runner.run(stub_plan(), run_folder, RunSettings())
    assert done.tallies["upper"].failed == done.tallies["upper"].clips_in == 1  # nothing but what had failed
    (folder / "bad.mp4").write_text("other words now")
    runner.run(stub_plan(), run_folder, RunSettings())
    assert not [table for table in manifests_of(run_folder).values() if "failed" in set(table["verdict"])]
    texts = {path.read_text() for path in (tmp_path / "long").glob("bad*")}
    assert texts == {"OTHER", "WORDS", "NOW"}


def test_a_finished_run_has_nothing_to_do(in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder = make_run_folder(make_input(tmp_path, 1))
    runner.run(stub_plan(), run_folder, RunSettings())
    before = contents(tmp_path / "long"), manifests_of(run_folder)["long"]
    monkeypatch.setattr(runner, "ray_workers", None)  # is not needed
    runner.run(stub_plan(), run_folder, RunSettings())
    assert contents(tmp_path / "long") == before[0]
    pd.testing.assert_frame_equal(manifests_of(run_folder)["long"], before[1])


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is cleaned up."""


class Fuse:
    """Counts changes of the disk, and stops the process before the n-th one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int = 0):
        self.count, self.stop_at = 0, stop_at
        for name in ("write", "publish", "remove"):
            monkeypatch.setattr(Folder, name, self.guarded(getattr(Folder, name)))

    def guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any) -> Any:
            self.count += 1
            if self.count == self.stop_at:
                raise Killed
            return method(*args)

        return change


def test_a_run_stopped_before_any_change_of_the_disk_resumes_to_the_same_result(
    in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = make_run_folder(make_input(tmp_path / "calm", 1, "hello -bad no"))
    with monkeypatch.context() as patch:
        fuse = Fuse(patch)
        runner.run(stub_plan(), calm, RunSettings())
    assert fuse.count > 20
    for stop_at in range(1, fuse.count + 1):
        wild = make_run_folder(make_input(tmp_path / f"wild {stop_at}", 1, "hello -bad no"))
        monkeypatch.setattr("latentsync.processing.run.chain.remove_tree", lambda _: None)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            Fuse(patch, stop_at)
            runner.run(stub_plan(), wild, RunSettings())
        monkeypatch.setattr("latentsync.processing.run.run_lock.WAIT_SEC", 0)  # this process lives on
        runner.run(stub_plan(), replace(wild, run_id="again"), RunSettings())
        assert_same_result(calm, wild)
        assert contents(tmp_path / f"wild {stop_at}/raw videos") == contents(tmp_path / "calm/raw videos")
        assert {path.name for path in Path(wild.output.root).iterdir()} == {"raw videos", "long", "manifests"}


def test_a_removed_intermediate_file_is_made_again(
    in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, wild = (make_run_folder(make_input(tmp_path / name, 2)) for name in ("calm", "wild"))
    runner.run(stub_plan(), calm, RunSettings())
    stop_at_long = replace(stub_plan()[2], make=partial(exec, "raise ValueError('no weights')"))
    with pytest.raises(ValueError, match="no weights"):
        runner.run((*stub_plan()[:2], stop_at_long), wild, RunSettings())
    waiting = list((tmp_path / "wild/upper").rglob("*.mp4"))
    assert waiting
    waiting[0].unlink()
    runner.run(stub_plan(), wild, RunSettings())
    assert_same_result(calm, wild)


def test_a_worker_of_a_killed_run_changes_nothing(in_process: None, tmp_path: Path) -> None:
    run_folder = make_run_folder(make_input(tmp_path, 1))
    with run_lock(run_folder):
        run_folder.manifests.write("current_run", b"another")
        item = backlog(run_folder, stub_plan(), Manifests(run_folder.manifests, stage_names(stub_plan()))).items[0]
        before = contents(tmp_path)
        with pytest.raises(StaleRun):
            list(Chain(stub_plan(), stub_plan(), run_folder, LocalTracker())(item))
        assert contents(tmp_path) == before


def kill_workers(run_folder: RunFolder, times: int, seed: int, done: threading.Event, killed: set[str]) -> None:
    """SIGKILL active workers, each identified by its staging folder."""
    draw = random.Random(seed)
    while len(killed) < times and not done.wait(draw.uniform(0.2, 0.6)):
        folders = (
            sorted(path.name for path in run_folder.staging_root.glob("*-*-*"))
            if run_folder.staging_root.is_dir()
            else []
        )
        for name in [name for name in folders if name not in killed][:1]:
            with suppress(ProcessLookupError):
                os.kill(int(name.split("-")[-2]), signal.SIGKILL)
                killed.add(name)


def test_a_run_whose_workers_are_killed_gives_the_same_result(ray_running: None, tmp_path: Path) -> None:
    calm, wild = (make_run_folder(make_input(tmp_path / name, 6)) for name in ("calm", "wild"))
    runner.run(stub_plan(), calm, RunSettings())
    done, killed = threading.Event(), set[str]()
    killer = threading.Thread(target=kill_workers, args=(wild, 3, 1, done, killed))
    killer.start()
    runner.run(stub_plan(0.05), wild, RunSettings())
    done.set()
    killer.join()
    assert len(killed) == 3
    assert_same_result(calm, wild)


KILLED_RUN = """
import sys
from latentsync.processing.config import RunSettings
from latentsync.processing.run_folder import make_run_folder
from latentsync.processing.run.runner import run
from tests.support.object_store import object_store
from tests.support.stub_steps import stub_plan
run(stub_plan(0.05), make_run_folder(sys.argv[1]), RunSettings(cores=2))
"""


def test_a_run_killed_three_times_gives_the_result_of_an_undisturbed_one(ray_running: None, tmp_path: Path) -> None:
    calm, wild = (make_run_folder(make_input(tmp_path / name, 12)) for name in ("calm", "wild"))
    runner.run(stub_plan(), calm, RunSettings())
    draw = random.Random(7)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, wild.input.address], cwd=ROOT, env=environment)
        wait_until_at_work(wild, process)
        time.sleep(draw.uniform(0.0, 1.0))
        assert process.poll() is None, "it is killed while it works"
        process.kill()
        process.wait()
    assert len(contents(tmp_path / "wild/long")) < len(contents(tmp_path / "calm/long")), "something was left to do"
    assert contents(tmp_path / "wild/raw videos") == contents(tmp_path / "calm/raw videos")
    runner.run(stub_plan(), wild, RunSettings())
    assert_same_result(calm, wild)
    assert not wild.staging_root.exists()


def wait_until_at_work(run_folder: RunFolder, process: subprocess.Popen) -> None:
    """Wait until a worker of this process (not one of a killed run) has begun a clip."""
    old = set(run_folder.staging_root.glob("*")) if run_folder.staging_root.is_dir() else set()
    while process.poll() is None and not set(run_folder.staging_root.glob("*-*-*")) - old:
        time.sleep(0.05)


def test_an_object_store_gives_the_result_of_a_disk(ray_running: None, store: str, tmp_path: Path) -> None:
    local = make_run_folder(make_input(tmp_path, 2))
    runner.run(stub_plan(), local, RunSettings())
    import s3fs

    files = s3fs.S3FileSystem()
    files.mkdir("corpus")
    files.put(f"{local.input.root}/", f"{store}/a set/raw videos/", recursive=True)
    remote = make_run_folder(f"{store}/a set/raw videos/")
    runner.run(stub_plan(), remote, RunSettings())
    names = remote.output.files()
    assert {name.split("/")[0] for name in names} == {"long", "manifests", "raw videos"}
    clips = {name.removeprefix("long/"): remote.output.read(name) for name in names if name.startswith("long/")}
    assert clips == {name: Path(local.output.root, "long", name).read_bytes() for name in contents(tmp_path / "long")}
    for stage, table in manifests_of(remote).items():
        other = manifests_of(local)[stage]
        verdicts = ["clip", "parent", "start_sec", "end_sec", "verdict", "reason"]
        pd.testing.assert_frame_equal(table[verdicts], other[verdicts])


def test_a_dry_run_keeps_no_clip_and_kept_stages_keep_all(in_process: None, tmp_path: Path) -> None:
    folder = make_input(tmp_path, 1)
    dry, full = (
        make_run_folder(folder, tmp_path / "out", dry_run=True),
        make_run_folder(folder, tmp_path / "out", keep_stages=True),
    )
    runner.run(stub_plan(), dry, RunSettings())
    assert {path.name for path in (tmp_path / "out/dry_run").iterdir()} == {"manifests"}
    runner.run(stub_plan(), full, RunSettings())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dry_run", "words", "upper", "long", "manifests"}
    verdicts = [(row.clip, row.verdict, row.reason) for row in rows_of(manifests_with_times(dry)["long"])]
    assert verdicts == [(row.clip, row.verdict, row.reason) for row in rows_of(manifests_with_times(full)["long"])]


def manifests_with_times(run_folder: RunFolder) -> dict[str, pd.DataFrame]:
    return Manifests(run_folder.manifests, stage_names(stub_plan())).tables()


def test_every_gpu_is_used(ray_running: None, tmp_path: Path) -> None:
    plan = stub_plan(0.1, gpu=True)
    assert [len(group) for group in groups_of(plan, has_gpu=True)] == [1, 1, 1]
    assert [len(group) for group in groups_of(plan, has_gpu=False)] == [1, 2]
    run_folder = make_run_folder(make_input(tmp_path, 4), keep_stages=True)
    runner.run(plan, run_folder, RunSettings(workers_per_gpu=1))
    written = [path.read_text() for path in (tmp_path / "upper").rglob("*.mp4")]
    assert {text.split()[1] for text in written} == {"0", "1"}


def test_a_second_run_in_the_same_output_is_refused(tmp_path: Path) -> None:
    run_folder = make_run_folder(make_input(tmp_path))
    with (
        run_lock(run_folder),
        pytest.raises(ValueError, match="Another run"),
        run_lock(make_run_folder(run_folder.input.address)),
    ):
        pass


def test_wrong_folders_are_refused_before_any_work(tmp_path: Path) -> None:
    folder = make_input(tmp_path)
    with pytest.raises(ValueError, match="never changed"):
        make_run_folder(folder, folder / "out")
    with pytest.raises(ValueError, match="does not exist"):
        make_run_folder(tmp_path / "nowhere")
    (tmp_path / "no videos").mkdir()
    with pytest.raises(ValueError, match="No videos"):
        make_run_folder(tmp_path / "no videos")
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "mine.mp4").write_text("a user's own")
    with pytest.raises(ValueError, match="no run wrote"):
        check_output(make_run_folder(folder), stub_plan(), StageSettings())


def test_an_output_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="file cannot be written to .* choose another --output_dir"):
        check_output(make_run_folder(make_input(tmp_path), tmp_path / "file"), stub_plan(), StageSettings())
    with pytest.raises(ValueError, match="s3x://bucket cannot be reached .* give a path"):
        make_run_folder("s3x://bucket")


def test_results_of_two_settings_are_not_mixed(tmp_path: Path) -> None:
    run_folder = make_run_folder(make_input(tmp_path))
    check_output(run_folder, stub_plan(), StageSettings())
    check_output(run_folder, stub_plan(), StageSettings(device="cpu"))  # changes no result
    with pytest.raises(ValueError, match="min_face_px 256 -> 100"):
        check_output(run_folder, stub_plan(), StageSettings(min_face_px=100))
    with pytest.raises(ValueError, match="alignment nose_tip -> whole_nose"):
        check_output(run_folder, stub_plan(), StageSettings(alignment="whole_nose"))
    record = json.loads(run_folder.manifests.read("settings.json"))
    del record["settings"]["alignment"]  # of a run before there was a choice
    run_folder.manifests.write("settings.json", json.dumps(record).encode())
    check_output(run_folder, stub_plan(), StageSettings())
    with pytest.raises(ValueError, match="alignment nose_tip -> whole_nose"):
        check_output(run_folder, stub_plan(), StageSettings(alignment="whole_nose"))
    with pytest.raises(ValueError, match="alignment is 'chin': choose one of nose_tip, whole_nose"):
        StageSettings(alignment="chin").check()


def test_the_command_makes_clips_that_training_can_read(
    in_process: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(ROOT / "assets/demo_video.mp4", raw / "somebody speaks.mp4")
    shutil.copy(ROOT / "assets/demo_video.mp4", raw / "somebody else.mp4")
    (raw / "broken.mp4").write_bytes((raw / "somebody else.mp4").read_bytes()[:30_000])
    config = ["--config", str(ROOT / "configs/processing/demo.yaml")]
    thresholds = ["stages.min_segment_sec=2", "stages.max_segment_sec=5"]
    assert process_data.main(["--input_dir", f"{raw}/", *config, *thresholds]) == 0
    index = index_clips(find_clips(tmp_path / "high_visual_quality"), 16, tmp_path / "cache")
    assert len(index.clips) == 4 and not index.rejected  # two shots of each film
    assert {clip.size_px for clip in index.clips} == {128}
    again = ["--reapply", str(tmp_path / "manifests"), "--output_dir"]  # the other settings are those of the run
    assert process_data.main([*again, str(tmp_path / "stricter"), "stages.min_face_px=400"]) == 0
    assert (tmp_path / "stricter/kept.txt").read_text() == ""
    assert process_data.main([*again, str(tmp_path / "same")]) == 0
    assert len((tmp_path / "same/kept.txt").read_text().splitlines()) == 4
    lists = ["--manifests", str(tmp_path / "manifests"), "--out_dir", str(tmp_path / "lists")]
    assert write_fileslist.main([*lists, "train=0.5", "val=0.5"]) == 0
    assert [len(find_clips(fileslist=tmp_path / f"lists/{name}.txt")) for name in ("train", "val")] == [2, 2]
    assert write_fileslist.main([*lists, "train=1"]) == 2  # the lists are there already
    assert process_data.main(["--input_dir", str(raw), *config]) == 2
    assert "min_segment_sec 2.0 -> 5.0" in capsys.readouterr().err
    assert process_data.main(["--input_dir", str(raw), *config, *thresholds, "--output_format", "shards"]) == 0
    assert sum(map(len, read_catalog(str(tmp_path / "shards")).clips)) == 4
    assert write_fileslist.main([*lists, "train=0.5", "val=0.5", "--output_format", "shards"]) == 0
    assert [sum(map(len, read_catalog(str(tmp_path / "lists" / name)).clips)) for name in ("train", "val")] == [2, 2]
