"""Clips in shards on an object store: their order, what is read, the local copies, and errors in one sentence."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from latentsync.data.clips import ClipIndex, TrainingClip, find_clips, index_clips, separated
from latentsync.data.draws import ClipOrder, PositionSampler, streamed_order
from latentsync.data.features import CachedFeature, mel_feature
from latentsync.data.frames import FrameMemory
from latentsync.data.shards.cache import ShardCache
from latentsync.data.shards.catalog import CATALOG, CLIPS, ShardError, read_catalog
from latentsync.data.shards.clips import check_feature, shard_clips
from latentsync.data.shards.write import write_feature, write_shards
from latentsync.data.storage import Folder
from latentsync.data.sync_clips import PixelPictures, SyncClips, collate
from tests.support.clip_files import write_clip
from tests.support.object_store import object_store

COUNT, SHARD_MB = 9, 0.06
NAMES = [f"films/clip.{number}_x.mp4" for number in range(COUNT)]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Folder]:
    """An empty folder of an object store."""
    with object_store():
        import s3fs

        s3fs.S3FileSystem().mkdir("speech")
        yield Folder("s3://speech/sets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips, one with known mouths."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(NAMES):
        write_clip(root / name, number)
    mouths = {"aperture": [0.5] * 40, "width": [0.2] * 40}
    (root / NAMES[3]).with_suffix(".json").write_text(json.dumps(mouths))
    return root


@pytest.fixture(scope="module")
def packed(bucket: Folder, folder: Path) -> Folder:
    """The clips in shards, without features."""
    target = bucket.under("plain")
    shards, clips, left_out = write_shards(Folder(folder), NAMES, target, SHARD_MB)
    assert shards > 2 and clips == COUNT and not left_out
    return target


def opened(address: str, cache: Path, limit_mb: float = 100.0) -> ClipIndex:
    catalog = read_catalog(address)
    return separated(shard_clips(catalog, ShardCache(address, catalog.parts, cache, round(limit_mb * 1e6))), 1)


def sync_items(clips: list[TrainingClip], mel: CachedFeature, lanes: int = 1) -> SyncClips:
    return SyncClips(clips, 4, 7, PixelPictures(FrameMemory(32, 0)), mel, lanes=lanes)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    lanes=st.integers(1, 17),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 9),
)
def test_every_epoch_visits_every_clip_once(sizes: list[int], lanes: int, seed: int, epoch: int) -> None:
    order = streamed_order(tuple(sizes), lanes, seed, epoch)
    assert sorted(order) == list(range(sum(sizes)))


def test_a_process_reads_the_shards_of_its_own_lanes_one_after_the_other() -> None:
    shard, count, lanes = 50, 64, 8
    order = streamed_order((shard,) * count, lanes, 0, 0)
    for lane in range(lanes):
        visited = [clip // shard for clip in order[lane::lanes]]
        changes = sum(a != b for a, b in zip(visited[:-1], visited[1:], strict=True))
        assert changes <= count // lanes, "no shard is visited twice"
    first, second = (
        {order[p] // shard for p in range(len(order)) if (p % lanes < 4) == half} for half in (True, False)
    )
    assert len(first & second) <= 1, "two processes share the shard that the line is cut in"
    assert order != streamed_order((shard,) * count, lanes, 0, 1)


def test_clips_in_shards_are_those_of_the_folder(packed: Folder, folder: Path, tmp_path: Path) -> None:
    files = {clip.key: clip for clip in index_clips(find_clips(folder), 1, tmp_path / "facts", "av").clips}
    clips = opened(packed.address, tmp_path).clips
    assert {clip.key for clip in clips} == set(files) and not list(tmp_path.glob("shards/**/*.mp4"))
    for clip in clips:
        other = files[clip.key]
        assert (clip.frames, clip.size_px, clip.path.stem) == (other.frames, other.size_px, other.path.stem)
        assert (clip.faces(3, 7) == other.faces(3, 7)).all() and (clip.waveform() == other.waveform()).all()
        assert clip.has_mouth() == other.has_mouth() == (clip.mouth() is not None)
    assert sum(clip.has_mouth() for clip in clips) == 1


def test_the_same_clips_give_the_same_shards_and_are_not_written_again(
    packed: Folder, folder: Path, bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = bucket.under("again")
    write_shards(Folder(folder), NAMES[::-1], again, SHARD_MB)
    names = [name for name in packed.files() if name.endswith(".tar") and name.startswith(CLIPS)]
    assert all(packed.read(name) == again.read(name) for name in names)
    again.remove(CATALOG)  # interrupted before the end, and
    again.remove("clips/00001.json")  # in the middle of a shard
    published: list[str] = []
    publish = Folder.publish

    def noted(self: Folder, staged: Path, name: str, staging: Path) -> None:
        published.append(name)
        publish(self, staged, name, staging)

    monkeypatch.setattr(Folder, "publish", noted)
    write_shards(Folder(folder), NAMES, again, SHARD_MB)
    assert published == ["clips/00001.tar"] and again.read(CATALOG) == packed.read(CATALOG)
    with pytest.raises(ShardError, match="again has shards of other clips: move them away"):
        write_shards(Folder(folder), NAMES[1:], again, SHARD_MB)


def test_clips_that_cannot_be_used_are_left_out_with_a_reason(folder: Path, tmp_path: Path) -> None:
    data = (folder / NAMES[0]).read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.mp4").write_bytes(data)
    (tmp_path / "in/cut.mp4").write_bytes(data[: len(data) // 2])
    shards, clips, left_out = write_shards(
        Folder(tmp_path / "in"), ["good.mp4", "cut.mp4"], Folder(tmp_path / "out"), 1.0
    )
    assert (shards, clips) == (1, 1) and left_out[0][0] == "cut.mp4"
    index = opened(str(tmp_path / "out"), tmp_path / "cache")
    assert [clip.path.name for clip in index.clips] == ["good.mp4"] and str(index.rejected[0].path) == "cut.mp4"
    with pytest.raises(ValueError, match="in has no clips to write"):
        write_shards(Folder(tmp_path / "in"), ["gone.mp4"], Folder(tmp_path / "other"), 1.0)


def test_features_come_with_the_clips_or_are_asked_for(bucket: Folder, folder: Path, tmp_path: Path) -> None:
    target = bucket.under("featured")
    write_shards(Folder(folder), NAMES, target, SHARD_MB)
    mel = mel_feature(tmp_path / "cache")
    before = opened(target.address, tmp_path / "cache").clips
    with pytest.raises(ShardError, match="featured have no mel: run scripts.precompute with this training's config"):
        check_feature(before, mel.kind, mel.folder.name, mel.settings)
    assert write_feature(mel, before, target) == [] and not mel.store.has(before[0].key), "nothing fills the disk"
    clips = opened(target.address, tmp_path / "cache").clips
    check_feature(clips, mel.kind, mel.folder.name, mel.settings)
    assert mel.missing(clips) == [] and write_feature(mel, clips, target) == []
    here = CachedFeature(tmp_path / "other", "mel", {}, mel.make_compute)
    plain = {clip.key: clip for clip in index_clips(find_clips(folder), 1, tmp_path / "facts", "av").clips}
    for clip in clips:
        assert mel.length(clip, "mel") == here.length(plain[clip.key], "mel")
        assert torch.equal(mel.rows(clip, "mel", 5, 20), here.rows(plain[clip.key], "mel", 5, 20))
    larger = CachedFeature(tmp_path / "cache", "mel", {"resolution": 512}, mel.make_compute)
    with pytest.raises(
        ShardError, match=r"have mel of another training \(resolution None instead of 512\): run scripts"
    ):
        check_feature(clips, larger.kind, larger.folder.name, larger.settings)


def test_items_do_not_depend_on_the_number_of_readers(packed: Folder, tmp_path: Path) -> None:
    """One reader, two processes with two workers each that share a cache for hardly more than one shard, and any start."""
    whole = sync_items(opened(packed.address, tmp_path / "a").clips, mel_feature(tmp_path / "mel"), lanes=4)
    expected = [whole[position] for position in range(16)]
    small = sync_items(
        opened(packed.address, tmp_path / "b", SHARD_MB * 1.5).clips, mel_feature(tmp_path / "mel"), lanes=4
    )
    for rank in (0, 1):
        sampler = PositionSampler(4, rank, 2, first_step=1, stop_step=4)
        for step, batch in enumerate(
            DataLoader(small, batch_sampler=sampler, collate_fn=collate, num_workers=2), start=1
        ):
            first = 4 * step + 2 * rank
            assert torch.equal(batch.image, collate(expected[first : first + 2]).image), (rank, step)
            assert torch.equal(batch.mel, collate(expected[first : first + 2]).mel), (rank, step)
    assert torch.equal(pickle.loads(pickle.dumps(small))[3].image, expected[3].image)


def test_the_other_clip_of_an_item_is_of_the_same_shard(packed: Folder, tmp_path: Path) -> None:
    clips = opened(packed.address, tmp_path).clips
    order = ClipOrder(clips, 0, 2)
    for clip in clips:
        near = order.near(clip)
        assert clip in near and ({other.shard for other in near} == {clip.shard} or len(near) == len(clips))


def test_the_local_copies_stay_below_the_limit(packed: Folder, tmp_path: Path) -> None:
    largest = max(file.size for file in read_catalog(packed.address).parts[CLIPS].files)
    clips = opened(packed.address, tmp_path, 2.2 * largest / 1e6).clips
    (tmp_path / "mine.txt").write_text("not a shard")
    there = set()
    for clip in [*clips, *clips]:
        clip.faces(0, 1)
        there = {path.name for path in tmp_path.glob("shards/*/clips/*") if path.is_dir()}
        assert len(there) <= 3 and sum(f.stat().st_size for f in tmp_path.glob("shards/**/*.mp4")) <= 2.2 * largest
    assert there and (tmp_path / "mine.txt").exists()
    nothing = opened(packed.address, tmp_path / "none", 0.0).clips
    assert [clip.faces(0, 1).shape for clip in nothing] == [clip.faces(0, 1).shape for clip in clips]


def test_what_is_wrong_with_a_set_is_said_in_one_sentence(packed: Folder, bucket: Folder, tmp_path: Path) -> None:
    def copy(name: str) -> Folder:
        target = bucket.under(name)
        for file in packed.files():
            target.write(file, packed.read(file))
        return target

    for address, message in {
        "s3://nowhere/sets": "s3://nowhere/sets has no shards .*check the data section; .*writes shards",
        "s3://speech/other": "s3://speech/other has no shards .*check the data section",
        "s4://speech/other": "s4://speech/other cannot be reached",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            read_catalog(address)
        assert "\n" not in str(error.value)
    missing, short, damaged = copy("missing"), copy("short"), copy("damaged")
    missing.remove("clips/00001.tar")
    with pytest.raises(ShardError, match="missing/clips/00001.tar is missing: copy it again"):
        read_catalog(missing.address)
    content = packed.read("clips/00000.tar")
    short.write("clips/00000.tar", content[:1000])
    with pytest.raises(ShardError, match=f"00000.tar has 1,000 bytes instead of {len(content):,}: copy it again"):
        read_catalog(short.address)
    damaged.write("clips/00000.tar", content[:600] + b"x" + content[601:])
    clip = opened(damaged.address, tmp_path).clips[0]
    with pytest.raises(ShardError, match="damaged/clips/00000.tar is damaged"):
        clip.faces(0, 1)
    damaged.remove("clips/00000.tar")
    with pytest.raises(ShardError, match="damaged/clips/00000.tar cannot be read"):
        clip.faces(0, 1)
    assert not list(tmp_path.rglob("*.mp4"))
