"""Trainings whose clips and features are in shards on an object store."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from latentsync.config import UNetRun, load
from latentsync.data.shards.write import write_shards
from latentsync.data.storage import Folder
from latentsync.training.engine.distributed import Processes
from latentsync.training.unet.train import train_unet
from scripts import precompute
from scripts.train_unet import main
from tests.support.clip_files import write_clip
from tests.support.object_store import object_store
from tests.support.tiny_training import make_clip, make_data
from tests.support.training_program import run_together, train_from_store
from tests.training.test_syncnet import TINY, tiny_run, train
from tests.training.test_training import assert_same, final_state

KILLED = -9
COUNT = 7
Streamed = tuple[dict[str, str], Path, str]


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streamed]:
    """The store's environment, a configuration of a stage 1, and its clips and features as shards."""
    folder = tmp_path_factory.mktemp("streamed") / "data"
    config = make_data(folder, clips=1)
    (folder / "more").mkdir()
    for number in range(COUNT):
        make_clip(folder / f"more/{number}.mp4", 10 + number)
    with object_store() as environment:
        import s3fs

        s3fs.S3FileSystem().mkdir("voices")
        address = "s3://voices/train"
        names = [f"{number}.mp4" for number in range(COUNT)]
        shards, _, _ = write_shards(Folder(folder / "more"), names, Folder(address), 0.05)
        assert 3 <= shards < COUNT
        place = [f"data.train_data_dir={address}", f"data.cache_dir={folder / 'writing'}"]
        assert precompute.main(["--unet_config_path", str(config), "--device", "cpu", *place]) == 0
        yield environment, config, address


def places(address: str, folder: Path, *others: str) -> tuple[str, ...]:
    return (
        f"data.train_data_dir={address}",
        f"data.train_output_dir={folder}",
        f"data.cache_dir={folder}-cache",
        *others,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("count", "workers"), [(1, 0), (2, 0), (1, 2)])
def test_a_streamed_run_resumed_after_a_kill_equals_an_uninterrupted_one(
    streamed: Streamed, tmp_path: Path, count: int, workers: int
) -> None:
    environment, config, address = streamed
    program, many = train_from_store, f"data.num_workers={workers}"
    tight = "data.shard_cache_gb=0.00003"  # hardly more than one shard: each is fetched anew
    whole, killed = places(address, tmp_path / "whole"), places(address, tmp_path / "killed", tight, many)
    assert run_together(program, count, environment, config, whole) == [0] * count
    assert run_together(program, count, environment, config, killed, 3)[0] == KILLED
    assert final_state(tmp_path / "killed")["step"] == 2
    assert run_together(program, count, environment, config, killed) == [0] * count
    one, two = ({**final_state(tmp_path / name), "train": None} for name in ("whole", "killed"))
    assert one["step"] == 4
    assert_same(one, two)


@pytest.mark.slow
def test_two_processes_train_on_the_items_of_one_each_with_its_own_shards(streamed: Streamed, tmp_path: Path) -> None:
    environment, config, address = streamed
    rows = []
    for count in (1, 2):
        assert (
            run_together(train_from_store, count, environment, config, places(address, tmp_path / str(count)))
            == [0] * count
        )
        lines = (tmp_path / str(count) / "log.jsonl").read_text().splitlines()
        rows.append([json.loads(line)["recon"] for line in lines])
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_a_training_reads_only_what_it_needs_and_knows_its_clips(streamed: Streamed, tmp_path: Path) -> None:
    _, config, address = streamed
    run = load(config, UNetRun, places(address, tmp_path / "run"))
    train_unet(run, Processes(cpu=True))
    parts = {path.name.split("-")[0] for path in tmp_path.glob("run-cache/shards/*/*") if path.is_dir()}
    assert parts - {"fetched"} == {"latents", "whisper"}, "a stage 1 with cached features needs no video"
    listed = [json.loads(line) for line in (tmp_path / "run/clips.jsonl").read_text().splitlines()]
    assert len(listed) == COUNT and {row["shard"] for row in listed} == set(
        range(len({row["shard"] for row in listed}))
    )
    files = replace(run, data=replace(run.data, train_data_dir=str(config.parent / "more")))
    with pytest.raises(
        ValueError, match="belongs to another run: the clips are the same, in another order or in other"
    ):
        train_unet(files, Processes(cpu=True))


def test_a_set_that_does_not_fit_is_refused_in_one_sentence(
    streamed: Streamed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, config, address = streamed
    command = ["--unet_config_path", str(config), "--device", "cpu"]
    for overrides, words in (
        (("data.resolution=32",), "have latents of another training (resolution 64 instead of 32"),
        (("data.train_data_dir=s3://voces/train",), "s3://voces/train has no shards"),
        (("data.shard_cache_gb=-1",), "data.shard_cache_gb is -1"),
    ):
        assert main([*command, *places(address, tmp_path / "run", *overrides)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
    assert not list(tmp_path.glob("run/checkpoints"))


def test_a_syncnet_trains_from_shards_and_resumes_exactly(tmp_path: Path) -> None:
    for number in range(7):
        write_clip(tmp_path / f"raw/{number}.mp4", number, frames=24)
    for name, numbers in (("train", range(5)), ("val", range(5, 7))):
        write_shards(Folder(tmp_path / "raw"), [f"{n}.mp4" for n in numbers], Folder(tmp_path / name), 0.05)
    (tmp_path / "tiny.yaml").write_text(TINY)
    with pytest.raises(ValueError, match="train have no mel: run scripts.precompute"):
        train(tiny_run(tmp_path, tmp_path / "none"))
    sets = [f"data.{kind}_data_dir={tmp_path / kind}" for kind in ("train", "val")]
    assert (
        precompute.main(["--config_path", str(tmp_path / "tiny.yaml"), *sets, f"data.cache_dir={tmp_path / 'c'}"]) == 0
    )
    train(tiny_run(tmp_path, tmp_path / "whole"))
    train(tiny_run(tmp_path, tmp_path / "halves"), stop_step=2)
    train(tiny_run(tmp_path, tmp_path / "halves"))
    assert_same(final_state(tmp_path / "whole"), final_state(tmp_path / "halves"))
